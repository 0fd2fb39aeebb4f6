#!/bin/sh
# Write constraints.txt from an installation of the newest versions that pyproject.toml allows (torch stays pinned:
# another one may pull several GB of GPU libraries). Run the tests before committing the result.
set -eu
cd "$(dirname "$0")/.."
sh scripts/setup.sh test
new=build/constraints
rm -rf "$new"
mkdir -p build
.venv/bin/python -m venv "$new"
grep '^torch==' constraints.txt >build/torch.txt
"$new/bin/python" -m pip install --disable-pip-version-check --quiet -c build/torch.txt "$(cat build/torch.txt)" \
    $("$new/bin/python" scripts/requirements.py build)
"$new/bin/python" -m pip install --disable-pip-version-check --quiet -c build/torch.txt --no-build-isolation \
    -e '.[text,image,moderation,upscale]' $("$new/bin/python" scripts/requirements.py test)
"$new/bin/python" -m pip install --disable-pip-version-check --quiet --no-deps \
    $("$new/bin/python" scripts/requirements.py bare)
{
    echo '# Versions that were tested together. Regenerate with: make constraints'
    "$new/bin/python" -m pip freeze --all --exclude pip --exclude-editable --exclude diptych |
        grep -v ' @ ' | sed 's/+cpu$//'
} >build/constraints.txt
mv build/constraints.txt constraints.txt
rm -rf "$new" build/torch.txt
echo 'constraints.txt is written; now run: make test' >&2
