#!/bin/sh
# Run the diptych command of .venv, with make's variables PORT, DATA and ARGS as its flags.
set -eu
cd "$(dirname "$0")/.."
command=$1
shift
# ARGS holds several words on purpose.
# shellcheck disable=SC2086
exec .venv/bin/python -m diptych.cli.main "$command" \
    ${PORT:+--port "$PORT"} ${DATA:+--data-dir "$DATA"} "$@" ${ARGS:-}
