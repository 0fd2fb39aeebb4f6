#!/bin/sh
# All measurements, one after the other; the tables go to the screen, the lines of JSON to bench-results.jsonl.
set -eu
cd "$(dirname "$0")/.."
DIPTYCH_TEST_CACHE=${DIPTYCH_TEST_CACHE:-$PWD/.venv/test-cache}
export DIPTYCH_TEST_CACHE
results=bench-results.jsonl
: > "$results"
for name in picture adapters control from_picture mixed crowd chat text shared_cpu start memory queueing schemas chaos gpu; do
    # shellcheck disable=SC2086
    .venv/bin/python "bench/$name.py" ${ARGS:-} | tee -a "$results.part" || echo "bench/$name.py: exit status $?" >&2
    grep '^{"bench"' "$results.part" >> "$results" || true
    rm -f "$results.part"
done
