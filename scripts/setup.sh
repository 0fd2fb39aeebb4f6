#!/bin/sh
# Create .venv and install what `run` or `test` needs. A second call with nothing changed ends at once.
#   sh scripts/setup.sh run|test
# PYTHON names the interpreter to use. pip's index comes from the user's own pip configuration.
set -euf
cd "$(dirname "$0")/.."
want=${1:-run}
venv=.venv
need_mb=${DIPTYCH_SETUP_MB:-3000}

say() { printf '%s\n' "diptych: $*" >&2; }
die() { say "$*"; exit 1; }

# What an installation depends on: the requirements, this script, and where the checkout lies.
fingerprint() { { cat pyproject.toml constraints.txt scripts/setup.sh scripts/requirements.py; pwd; } | cksum; }

installed() {
    for stamp in "$venv/.diptych-$want" "$venv/.diptych-test"; do
        [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$(fingerprint)" ] && "$venv/bin/python" -c '' 2>/dev/null && return 0
    done
    return 1
}

# Succeeds when $1 is an interpreter that can make our environment. The pinned versions exist for 3.11 and newer.
usable() {
    "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null
}

find_python() {
    if [ -n "${PYTHON:-}" ]; then
        usable "$PYTHON" || die "PYTHON=$PYTHON is no Python 3.11 to 3.13; name another or leave PYTHON out"
        python=$PYTHON
    else
        python=
        old_ifs=$IFS
        IFS=:
        for name in python3 python3.13 python3.12 python3.11 python; do
            for folder in $PATH; do  # every one: the first python3 on the path may be a shim that does not work
                [ -z "$python" ] && [ -x "$folder/$name" ] && usable "$folder/$name" && python=$folder/$name
            done
        done
        IFS=$old_ifs
        [ -n "$python" ] || die "no Python 3.11, 3.12 or 3.13 found on the PATH. Install one" \
            "(Debian, Ubuntu: apt install python3 python3-venv; macOS: brew install python@3.12) or name it: make run PYTHON=/path/to/python3"
    fi
    "$python" -c 'import venv, ensurepip' 2>/dev/null || die "$python cannot create environments: its venv module" \
        "is missing. Install it (Debian, Ubuntu: sudo apt install python3-venv) and run this again"
}

check_disk() {
    free_mb=$(df -Pk . | awk 'NR == 2 { print int($4 / 1024) }')
    [ "$free_mb" -ge "$need_mb" ] || die "not enough disk space: the installation needs about $need_mb MB," \
        "$free_mb MB are free in $(pwd). Free some, or move the checkout to a larger disk"
}

# A marker from an interrupted installation: keep what is whole, start again where something is broken.
repair() {
    [ -e "$venv" ] || return 0
    if [ -f "$venv/.diptych-installing" ] || [ ! -f "$venv/.diptych-venv" ]; then
        if ! "$venv/bin/python" scripts/check_venv.py 2>/dev/null; then
            say "the environment in $venv is not whole (an interrupted set-up?); making it anew"
            rm -rf "$venv"
        fi
    elif ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
        say "the environment in $venv does not work any more (another Python, or moved?); making it anew"
        rm -rf "$venv"
    fi
}

pip_install() {
    "$venv/bin/python" -m pip install --disable-pip-version-check --quiet -c constraints.txt "$@" && return 0
    free_mb=$(df -Pk . | awk 'NR == 2 { print int($4 / 1024) }')
    [ "$free_mb" -ge 200 ] || die "the disk is full ($free_mb MB free in $(pwd)): free some space and run this again"
    die "pip could not install the packages; its message is above. Check the network and run this again:" \
        "what was downloaded is kept"
}

install() {
    : >"$venv/.diptych-installing"
    say "installing torch into $venv (about 200 MB on a machine without a GPU; this happens once)"
    pip_install "$(grep '^torch==' constraints.txt)"
    say "installing the other packages"
    pip_install $("$venv/bin/python" scripts/requirements.py build)
    if [ "$want" = test ]; then
        pip_install --no-build-isolation -e '.[text,image,moderation,upscale]' \
            $("$venv/bin/python" scripts/requirements.py test)
    else
        pip_install --no-build-isolation -e '.[text,image,upscale]'
    fi
    pip_install --no-deps $("$venv/bin/python" scripts/requirements.py bare)
    fingerprint >"$venv/.diptych-$want"
    rm -f "$venv/.diptych-installing"
}

case $want in run | test) ;; *) die "what to set up? run or test" ;; esac
# Python compiles what it imports, but keeps that nowhere where PYTHONDONTWRITEBYTECODE is set, as in many containers:
# every start of the server would take 0.4 s longer. What has not changed costs nothing here.
compiled() { "$venv/bin/python" -m compileall -q src; }

installed && { compiled; exit 0; }
repair
if [ ! -x "$venv/bin/python" ]; then
    find_python
    check_disk
    say "creating $venv with $("$python" --version 2>&1) ($python)"
    "$python" -m venv "$venv" || die "$python could not create $venv; its message is above" \
        "(Debian, Ubuntu: sudo apt install python3-venv)"
    : >"$venv/.diptych-venv"
else
    need_mb=$((need_mb / 3))  # most of it is there
    check_disk
fi
install
compiled
say "set up"
