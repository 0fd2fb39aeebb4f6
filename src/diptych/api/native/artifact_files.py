"""Where the files of artifacts lie."""

from __future__ import annotations

import re
from pathlib import Path

from diptych.core.errors import InvalidRequest, NotFound
from diptych.core.jobs import Artifact
from diptych.core.paths import inside

ARTIFACT_ID = re.compile(r"[0-9a-f]{32}-[0-9]{1,6}")


def artifact_path(folder: Path, artifact: Artifact) -> Path:
    """Where the file lies, inside `folder` for sure. Raises NotFound when it is not there (any more)."""
    gone = NotFound(f"the file of artifact {artifact.id!r} is gone", param="id", code="file_gone")
    try:
        path = inside(folder, artifact.path, param="id")
    except InvalidRequest as error:  # a link was put in its place; the client's id was right
        raise gone from error
    if not path.is_file():
        raise gone
    return path
