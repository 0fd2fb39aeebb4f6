#!/bin/sh
# All tests. The starter text model is put in place first: the tests use the real one.
set -eu
cd "$(dirname "$0")/.."
# shellcheck disable=SC2086
exec .venv/bin/python -m pytest ${ARGS:-}
