"""What the files of all kinds of models are read with."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from diptych.library.gguf import BadFile

MAX_JSON = 16 * 1024 * 1024
SAMPLES, SAMPLE_BYTES = 8, 16 * 1024


def read_json(path: Path, most: int = MAX_JSON) -> dict[str, Any]:
    """The JSON object in a file of at most `most` bytes. Raises BadFile, OSError."""
    try:
        if path.stat().st_size > most:
            raise BadFile(f"{path.parent.name}/{path.name} is larger than {most} bytes")
        found = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise BadFile(f"{path.parent.name}/{path.name} is missing") from error
    except (ValueError, RecursionError) as error:
        raise BadFile(f"{path.parent.name}/{path.name} is not valid JSON") from error
    if not isinstance(found, dict):
        raise BadFile(f"{path.parent.name}/{path.name} is not a JSON object")
    return found


def front_matter(readme: Path) -> dict[str, str]:
    """`license` and `name` of a model card's YAML head, read as plain `key: value` lines."""
    try:
        with readme.open(encoding="utf-8", errors="replace") as file:
            text = file.read(8192)
    except OSError:
        return {}
    if not text.startswith("---\n"):
        return {}
    head = text[4:].partition("\n---")[0]
    pairs = (line.partition(":") for line in head.splitlines() if not line.startswith((" ", "#")))
    return {key.strip(): value.strip().strip("\"'") for key, _, value in pairs if value.strip()}


def fingerprint(headers: Iterable[str], files: Iterable[Path]) -> str:
    """Ten hexadecimal digits over headers, sizes and a few samples of the weights: two fine-tunes of one model have
    the same headers and sizes."""
    digest = hashlib.sha256()
    for header in headers:
        digest.update(header.encode())
    for path in files:
        size = path.stat().st_size
        digest.update(size.to_bytes(8, "little"))
        with path.open("rb") as file:
            for sample in range(1, SAMPLES + 1):
                file.seek(max(0, size * sample // SAMPLES - SAMPLE_BYTES))
                digest.update(file.read(SAMPLE_BYTES))
    return digest.hexdigest()[:10]
