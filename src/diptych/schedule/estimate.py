"""What a model will need and how long a job will take: from file headers and shapes, until it was measured."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from diptych.core.cards import Card
from diptych.schedule.arbiter import Placement
from diptych.schedule.leases import Lease, LeaseKind, Leases
from diptych.schedule.shapes import ImageShape, TextShape, image_shape, text_shape
from diptych.settings import Settings

MIB = 2**20
IMAGE_RUNTIME, TEXT_RUNTIME = 450 * MIB, 120 * MIB
"""Bytes of a runner before it holds a model: its libraries, as measured."""
DRIVER_RUNTIME = 500 * MIB
"""Bytes of an accelerator that its driver takes for one process. Not measured by us."""
CACHE_PER_TOKEN = 64 * 2**10
"""Bytes of KV cache per token where the header does not tell."""
CONTEXT, BATCH = 8192, 128
"""What a text runner takes unless it is told otherwise: tokens per request, and prompt tokens read at a time."""
UNET_VALUES, VAE_VALUES, TINY_VALUES = 32, 9, 6
"""Values alive at once in a pass, as multiples of one feature map: (row × latents × channels of the UNet's first level)
and (pixels × channels of the VAE's second level, of AutoencoderTiny's first). Measured peaks were 20 to 30, 4 to 8.6
and 2 to 4."""
PASS_BYTES = 32 * MIB
"""Of any pass, however small: workspaces of its kernels."""
MARGIN = 1.1
"""Measured figures are averages of peaks."""
DTYPE, DTYPE_BYTES = "float32", 4
"""What the image engine computes in."""

Measured = Mapping[tuple[str, str], float]
"""Bytes by (model fingerprint, label)."""


def loaded_label(device: str, options: str = DTYPE) -> str:
    """Of the memory of a process whose model is loaded and has not worked yet."""
    return f"{device} {options} loaded"


def pass_label(device: str, what: str) -> str:
    """Of what a pass takes beyond that: `what` is "WIDTHxHEIGHTxPICTURES" or "WIDTHxHEIGHT decode"."""
    return f"{device} {DTYPE} {what}"


class Estimator:
    """Placements of models: the ways to hold each, with their leases. Remembers what it read of files."""

    def __init__(self, settings: Settings, measured: Measured) -> None:
        self._settings, self._measured = settings, measured
        self._shapes: dict[str, TextShape | ImageShape | None] = {}

    def read(self, card: Card) -> TextShape | ImageShape | None:
        """The shapes in a card's files. Reads them once: call it in a thread before `placements` is called in an event
        loop."""
        key = f"{card.path} {card.fingerprint}"
        if key not in self._shapes:
            path = Path(card.path)
            image = card.panel == "image"
            gguf = card.format == "gguf"
            self._shapes[key] = image_shape(path) if image else text_shape(path) if gguf else None
        return self._shapes[key]

    def placements(self, card: Card, size: tuple[int, int] | None = None) -> tuple[Placement, ...]:
        """Best first.

        Args:
            size: width and height in pixels of the picture that is asked for; the model's own when left out.
        """
        if card.panel == "text":
            return (self._text(card),)
        return tuple(placement for device in self._settings.devices for placement in self._image(card, device, size))

    def text_label(self, card: Card) -> str:
        settings = self._settings
        return f"{settings.text_slots}x{self._context(card)} {settings.text_cache_type}"

    def _context(self, card: Card) -> int:
        return self._settings.text_context or min(card.context or CONTEXT, CONTEXT)

    def _text(self, card: Card) -> Placement:
        settings, shape = self._settings, self.read(card)
        tokens = self._context(card) * settings.text_slots
        cache, batch = tokens * CACHE_PER_TOKEN, 64 * MIB
        if isinstance(shape, TextShape):
            cache = shape.cache_bytes(tokens, settings.text_cache_type)
            batch = BATCH * (shape.vocabulary + 8 * shape.width) * 4 + PASS_BYTES
        weights = card.bytes if card.format == "gguf" else 4 * (card.parameters or card.bytes // 2)
        if card.projector is not None:
            weights += _file_bytes(card.projector)
        weights += sum(_file_bytes(adapter.path) for adapter in card.adapters)
        runtime = TEXT_RUNTIME if card.format == "gguf" else IMAGE_RUNTIME
        known = self._measured.get((_key(card), loaded_label("cpu", self.text_label(card))))
        if known is not None:  # the whole process: what the shapes do not explain is the runtime's
            batch = min(batch, int(known))
            cache = min(cache, max(0, int(known) - batch))
            weights = min(weights, max(0, int(known) - batch - cache))
            runtime = max(0, int(known) - batch - cache - weights)
        return Placement(leases=_leases("cpu", runtime=runtime, weights=weights, cache=cache, activations=batch))

    def _image(self, card: Card, device: str, size: tuple[int, int] | None) -> list[Placement]:
        """One placement per number of pictures that are denoised together, the most first: where memory is short, a
        smaller batch is better than none."""
        side = card.size or 512
        weights = DTYPE_BYTES * (card.parameters or card.bytes // 2)
        known = self._measured.get((_key(card), loaded_label(device)))
        # Pipelines of other families paint one picture at a time.
        made, count = [], 1 if card.family == "pipeline" else self._settings.image_batch
        while count:
            work = self._pass_bytes(card, device, (side, side), count)
            if size is not None:
                work = max(work, self._pass_bytes(card, device, size, 1))
            made.append(Placement(
                devices=(device,), leases=_image_leases(device, weights, work, None if known is None else int(known)),
                rank=int(device == "cpu"), options={"device": device, "batch_pixels": count * side * side}))
            count //= 2
        return made

    def _pass_bytes(self, card: Card, device: str, size: tuple[int, int], pictures: int) -> int:
        """What working on so many pictures takes at most: a pass of the UNet with two rows for each (guidance), or one
        picture's decode."""
        (width, height), shape = size, self.read(card)
        if not isinstance(shape, ImageShape):
            shape = ImageShape(channels=320, vae_channels=256, factor=8, tiny=False)
        latents = -(-width // shape.factor) * -(-height // shape.factor)
        each = 2 * latents * shape.channels * DTYPE_BYTES * UNET_VALUES
        unet = self._measured_pass(card, device, size, pictures, each) or PASS_BYTES + pictures * each
        decode = self._measured.get((_key(card), pass_label(device, f"{width}x{height} decode")))
        if decode is None:
            values = TINY_VALUES if shape.tiny else VAE_VALUES
            decode = PASS_BYTES + width * height * shape.vae_channels * DTYPE_BYTES * values
        else:
            decode *= MARGIN
        return int(max(unet, decode))

    def _measured_pass(
        self, card: Card, device: str, size: tuple[int, int], pictures: int, each: int,
    ) -> float | None:
        """The measured pass of the nearest number of pictures of this size: of a smaller number with `each` bytes for
        every one that it lacks (a small pass is mostly workspaces, so it does not scale), of a larger as it is."""
        width, height = size
        found = {}
        for count in range(1, self._settings.image_batch + 1):
            value = self._measured.get((_key(card), pass_label(device, f"{width}x{height}x{count}")))
            if value is not None:
                found[count] = value
        smaller = [count for count in found if count <= pictures]
        if smaller:
            return MARGIN * found[max(smaller)] + (pictures - max(smaller)) * each
        return MARGIN * found[min(found)] if found else None


def _image_leases(device: str, weights: int, work: int, known: int | None) -> Leases:
    if device in ("cpu", "mps"):  # unified memory: both are the machine's
        runtime = IMAGE_RUNTIME if known is None else max(0, known - weights)
        return _leases("cpu", runtime=runtime, weights=weights, activations=work)
    runtime = DRIVER_RUNTIME if known is None else max(0, known - weights)
    host = (Lease(device="cpu", kind="runtime", bytes=2 * IMAGE_RUNTIME),)
    return _leases(device, runtime=runtime, weights=weights, activations=work) + host


def _leases(device: str, *, runtime: int, weights: int, activations: int, cache: int = 0) -> Leases:
    made: dict[LeaseKind, int] = {"runtime": runtime, "weights": weights, "cache": cache, "activations": activations}
    return tuple(Lease(device=device, kind=kind, bytes=size) for kind, size in made.items() if size)


def _key(card: Card) -> str:
    return card.fingerprint or card.id


def _file_bytes(path: str) -> int:
    try:
        return Path(path).stat().st_size
    except OSError:
        return 0


def size_of_shape(shape: str) -> tuple[int, int] | None:
    """`(width, height)` of what `shape_of` gave; None where that is not known yet."""
    width, _, height = shape.partition(" ")[0].partition("x")
    return (int(width), int(height)) if width.isdigit() and height.isdigit() else None
