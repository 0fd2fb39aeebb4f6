"""What commands read from files and standard input: texts, pictures, documents, JSON."""

from __future__ import annotations

import base64
import json
import sys
from pathlib import Path
from typing import Any

from diptych.cli.errors import USAGE, CliError

PICTURES = {b"\x89PNG": "png", b"\xff\xd8\xff": "jpeg", b"RIFF": "webp", b"GIF8": "gif", b"BM": "bmp"}
"""How a file of each kind begins."""
MOST_BYTES = 64 * 1024 * 1024


def read_text(path: str, option: str) -> str:
    """A UTF-8 file. Raises CliError."""
    try:
        return _read(path, option).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CliError(f"{option}: {path} is no UTF-8 text (byte {error.start})", status=USAGE) from error


def read_json(value: str, option: str) -> Any:
    """JSON of a file, or written out where it begins with a brace or bracket. Raises CliError."""
    written = value.lstrip()[:1] in ("{", "[")
    text = value if written else read_text(value, option)
    try:
        return json.loads(text)
    except ValueError as error:
        raise CliError(f"{option}: {'this' if written else value} is no JSON: {error}", status=USAGE) from error


def picture_url(value: str, option: str) -> str:
    """A `data:` URL of a file; URLs go to the server as they are. Raises CliError."""
    if value.startswith(("http://", "https://", "data:")):
        return value
    raw, kind = read_picture(value, option)
    return f"data:image/{kind};base64,{base64.b64encode(raw).decode()}"


def read_picture(path: str, option: str) -> tuple[bytes, str]:
    """A file, and which of the kinds in `PICTURES` it is. Raises CliError."""
    raw = _read(path, option)
    kind = next((kind for start, kind in PICTURES.items() if raw.startswith(start)), None)
    if kind is None:
        raise CliError(f"{option}: {path} is no picture: PNG, JPEG, WebP, GIF or BMP", status=USAGE)
    return raw, kind


def document(value: str, option: str) -> dict[str, str]:
    """`{title, text}` of a text file. Raises CliError."""
    text = read_text(value, option)
    if not text.strip():
        raise CliError(f"{option}: {value} has no text", status=USAGE)
    return {"title": Path(value).name, "text": text}


def texts_of(arguments: list[str] | None, file: str | None) -> list[str]:
    """Texts that were given as arguments, or the lines of a file or of standard input that are not empty.

    Raises:
        CliError: there is none, or both arguments and a file.
    """
    if arguments and file:
        raise CliError("give either texts or --file", status=USAGE)
    if arguments:
        return arguments
    texts = [line.strip() for line in (read_text(file, "--file") if file else _piped()).splitlines() if line.strip()]
    if not texts:
        raise CliError("there is no text: give one, name a --file, or pipe lines in", status=USAGE)
    return texts


def whole_text(arguments: list[str] | None, file: str | None) -> list[str]:
    """The same for texts of several lines: a file or standard input is one text."""
    if arguments:
        return texts_of(arguments, file)
    text = read_text(file, "--file") if file else _piped()
    if not text.strip():
        raise CliError("there is no text: give one, name a --file, or pipe one in", status=USAGE)
    return [text]


def _piped() -> str:
    if sys.stdin is None or sys.stdin.isatty():
        return ""
    try:
        return sys.stdin.read()
    except UnicodeDecodeError as error:
        raise CliError("standard input is no UTF-8 text", status=USAGE) from error


def _read(path: str, option: str) -> bytes:
    file = Path(path)
    try:
        if file.stat().st_size > MOST_BYTES:
            raise CliError(f"{option}: {path} is over {MOST_BYTES // 2**20} MB", status=USAGE)
        return file.read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise CliError(f"{option}: cannot read {path}: {reason}", status=USAGE) from error
