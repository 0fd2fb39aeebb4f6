"""An invisible mark in a picture: a few bytes in the cosine transform of its brightness. Needs numpy, when used.

The scheme: the picture is cut into blocks of 8 × 8 pixels from its left upper corner; what is left over at the right
and lower edge stays as it is. Of each block's brightness (BT.601) the orthonormal DCT-II is taken, and of that the
four coefficients `PLACES`. Coefficient number p of all (blocks in rows, four in each) carries bit `order[p] mod n` of
the frame, where `order` is a fixed random permutation; so each bit is there many times, all over the picture. A bit is
written by quantization index modulation (Chen & Wornell 2001, doi:10.1109/18.923725): the coefficient goes to the
nearest odd (1) or even (0) multiple of `STEP / 2`. Reading sums up how near all copies of a bit are to either. The
frame: one byte with the length, the bytes, and the lower 16 bits of their CRC-32 (over length and bytes), each most
significant bit first.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any

from diptych.core.errors import InvalidRequest
from diptych.core.finish import MAX_PAYLOAD

if TYPE_CHECKING:
    import numpy as np

STEP = 20.0
"""Distance of two values that mean the same bit, in units of brightness (0 to 255) times 8 pixels' norm."""
PLACES = ((0, 2), (2, 0), (1, 2), (2, 1))
MARGIN = 5
"""Brightness at both ends that a marked picture does not use: at black and white there would be no room for a wave."""
SEED = 1_179_209_808
COPIES = 2
"""Each bit has to fit in this often, or the picture is refused as too small."""


def embed(pixels: np.ndarray, payload: bytes, *, param: str = "payload") -> np.ndarray:
    """A copy of uint8 `(height, width, 3 or 4)` with `payload` in it; transparency stays.

    Raises:
        InvalidRequest: more than 32 bytes, none, or a picture that is too small for them.
    """
    import numpy as np

    if not 1 <= len(payload) <= MAX_PAYLOAD:
        raise InvalidRequest(f"{param} has {len(payload)} bytes; 1 to {MAX_PAYLOAD} can be hidden", param=param)
    bits = _frame(payload)
    height, width = (side // 8 * 8 for side in pixels.shape[:2])
    room = height * width // 64 * len(PLACES)
    if room < COPIES * len(bits):
        raise InvalidRequest(
            f"{param}: a picture of {pixels.shape[1]}x{pixels.shape[0]} has room for {room} bits, {len(payload)} bytes "
            f"need {COPIES * len(bits)}", param=param)
    colours = pixels[:height, :width, :3].astype(np.float64).clip(MARGIN, 255 - MARGIN)
    blocks = _blocks(_brightness(colours))
    waves = _basis()
    index = _order(room) % len(bits)
    wanted = np.asarray(bits, np.float64)[index].reshape(-1, len(PLACES))
    found = np.einsum("bxy,pxy->bp", blocks, waves)
    half = STEP / 2
    target = (2 * np.round((found / half - wanted) / 2) + wanted) * half
    change = _picture(np.einsum("bp,pxy->bxy", target - found, waves), height, width)
    marked: np.ndarray = pixels.copy()
    marked[:height, :width, :3] = (colours + change[..., None]).round().clip(0, 255).astype(np.uint8)
    return marked


def detect(pixels: np.ndarray) -> bytes | None:
    """The bytes hidden in uint8 `(height, width, 3 or 4)`; None where there are none. About two in a million pictures
    without a mark seem to have one."""
    import numpy as np

    height, width = (side // 8 * 8 for side in pixels.shape[:2])
    if not height or not width:
        return None
    blocks = _blocks(_brightness(pixels[:height, :width, :3].astype(np.float64)))
    found = np.einsum("bxy,pxy->bp", blocks, _basis()).ravel()
    votes = -np.cos(found * (2 * np.pi / STEP))  # 1 at odd multiples of half a step, -1 at even ones
    order = _order(len(found))
    for length in range(1, MAX_PAYLOAD + 1):
        count = 8 * (length + 3)
        if len(found) < COPIES * count:
            return None
        sums = np.bincount(order % count, votes, count)
        frame = np.packbits((sums > 0).astype(np.uint8)).tobytes()
        if frame[0] == length and frame == _framed(frame[1:1 + length]):
            return frame[1:1 + length]
    return None


def _framed(payload: bytes) -> bytes:
    head = bytes([len(payload)]) + payload
    return head + (zlib.crc32(head) & 0xFFFF).to_bytes(2, "big")


def _frame(payload: bytes) -> list[int]:
    return [byte >> shift & 1 for byte in _framed(payload) for shift in range(7, -1, -1)]


def _brightness(colours: np.ndarray) -> np.ndarray:
    import numpy as np

    return np.asarray(colours @ np.array([0.299, 0.587, 0.114]))


def _blocks(plane: np.ndarray) -> np.ndarray:
    """(blocks, 8, 8) of a plane whose sides are multiples of 8."""
    height, width = plane.shape
    blocks: np.ndarray = plane.reshape(height // 8, 8, width // 8, 8).transpose(0, 2, 1, 3).reshape(-1, 8, 8)
    return blocks


def _picture(blocks: np.ndarray, height: int, width: int) -> np.ndarray:
    plane: np.ndarray = blocks.reshape(height // 8, width // 8, 8, 8).transpose(0, 2, 1, 3).reshape(height, width)
    return plane


def _basis() -> Any:
    """(places, 8, 8): the waves of the orthonormal DCT-II that are used."""
    import numpy as np

    steps = np.arange(8)
    rows = np.cos(np.pi * (2 * steps[None, :] + 1) * steps[:, None] / 16) * np.sqrt(2 / 8)
    rows[0] /= np.sqrt(2)
    return np.stack([np.outer(rows[v], rows[h]) for v, h in PLACES])


def _order(count: int) -> np.ndarray:
    """The permutation. Written out, since generators of numpy may change between versions: sorted by a hash."""
    import numpy as np

    value = np.arange(count, dtype=np.uint64) + np.uint64(SEED)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):  # splitmix64 (Steele et al. 2014)
        value = (value ^ (value >> np.uint64(shift))) * np.uint64(factor)
    return np.asarray(np.argsort(value ^ (value >> np.uint64(31)), kind="stable"))
