"""Pictures that jobs work on: each kept once, under the hash of its file."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from diptych.core.errors import NotFound, Unavailable
from diptych.core.image_options import INPUT_ID

if TYPE_CHECKING:
    from PIL import Image

MODES = ("L", "RGB", "RGBA")
COMPRESSION = 3
"""Of zlib: more takes several times as long and saves little."""


@dataclass(frozen=True)
class InputPicture:
    """A stored picture. `mode`: L, RGB or RGBA."""

    id: str
    width: int
    height: int
    mode: str


class InputStore:
    """Pictures in a folder, as PNG files without metadata. Safe from any thread and process: a file is there whole or
    not at all, and the same picture is the same file."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(self, picture: Image.Image) -> InputPicture:
        """Store a picture (others than L, RGB and RGBA become RGB). Blocks.

        Raises:
            Unavailable: it cannot be written.
        """
        from PIL import Image

        if picture.mode not in MODES:
            picture = picture.convert("RGBA" if picture.has_transparency_data else "RGB")
        bare = Image.frombytes(picture.mode, picture.size, picture.tobytes())  # no text, profile or palette goes along
        buffer = io.BytesIO()
        bare.save(buffer, format="PNG", compress_level=COMPRESSION)
        raw = buffer.getvalue()
        digest = hashlib.sha256(raw).hexdigest()
        try:
            self._write(self._file(digest), raw)
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            raise Unavailable(
                f"a picture cannot be stored: {error.strerror or type(error).__name__}",
                code="disk_full" if full else "write_failed") from error
        return InputPicture(f"sha256:{digest}", *picture.size, picture.mode)

    def path(self, id: str, *, param: str = "id") -> Path:
        """The file of a picture. Raises NotFound; `param` is the field that names it."""
        if INPUT_ID.fullmatch(id):
            file = self._file(id.removeprefix("sha256:"))
            if file.is_file():
                return file
        raise NotFound(f"{param} is {id[:80]!a}, but there is no uploaded picture of that id; upload it with POST "
                       "/api/inputs, or send the picture itself", param=param)

    def _file(self, digest: str) -> Path:
        return self._folder / digest[:2] / f"{digest}.png"

    @staticmethod
    def _write(file: Path, raw: bytes) -> None:
        if file.is_file() and file.stat().st_size == len(raw):
            return
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_name(f".{file.name}.{secrets.token_hex(4)}.part")
        try:
            with part.open("xb") as written:
                written.write(raw)
                written.flush()
                os.fsync(written.fileno())  # the job that names it is told to be durable
            part.replace(file)
        finally:
            part.unlink(missing_ok=True)
