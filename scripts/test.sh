#!/bin/sh
# All tests, in two processes (WORKERS=0: in one). Models that tests use are kept in .venv, so that nothing is written
# into the home folder.
set -eu
cd "$(dirname "$0")/.."
DIPTYCH_TEST_CACHE=${DIPTYCH_TEST_CACHE:-$PWD/.venv/test-cache}
export DIPTYCH_TEST_CACHE
# Tests start some hundred processes of ours: each would compile our sources anew.
unset PYTHONDONTWRITEBYTECODE
# shellcheck disable=SC2086
exec .venv/bin/python -m pytest -n "${WORKERS:-2}" --dist loadfile --no-loadscope-reorder ${ARGS:-}
