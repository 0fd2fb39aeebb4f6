"""Exit 0 when every package in this environment is whole, 1 and a list when an interrupted installation left halves.

A package is whole when the list of its files is there and names no file that is missing.
"""

from __future__ import annotations

import sys
from importlib.metadata import Distribution, distributions
from pathlib import Path


def broken(dist: Distribution) -> bool:
    if not dist.metadata or not dist.metadata["Name"] or dist.read_text("RECORD") is None:
        return True
    return any(not Path(str(file.locate())).exists() for file in dist.files or () if not str(file).endswith(".pyc"))


def main() -> int:
    found = [dist for dist in distributions() if broken(dist)]
    halves = [path for folder in sys.path if folder.endswith("site-packages") for path in Path(folder).glob("~*")]
    for name in [str(getattr(dist, "_path", dist)) for dist in found] + [str(path) for path in halves]:
        print("not whole:", name)
    import pip  # noqa: F401  (an environment without pip is of no use)

    return 1 if found or halves else 0


if __name__ == "__main__":
    sys.exit(main())
