"""Print requirements from pyproject.toml, one a line: `requirements.py build` or the name of a dependency group.

Here because pip reads dependency groups from 25.1 on only, and a new environment often has an older one.
"""

from __future__ import annotations

import sys
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    from pip._vendor import tomli as tomllib


def main(which: str) -> None:
    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8"))
    if which == "build":  # hatchling needs editables for an editable installation
        wanted = [*project["build-system"]["requires"], "editables"]
    else:
        wanted = project["dependency-groups"][which]
    print("\n".join(item.replace(" ", "") for item in wanted))


if __name__ == "__main__":
    main(sys.argv[1])
