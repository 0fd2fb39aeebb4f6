"""Stable Diffusion checkpoints in one safetensors file, by the key names in their headers."""

from __future__ import annotations

from pathlib import Path

from diptych.core.cards import Card
from diptych.library.files import fingerprint
from diptych.library.gguf import BadFile
from diptych.library.safetensors_header import SafetensorsHeader, read_safetensors

FIRST_CONV = "model.diffusion_model.input_blocks.0.0.weight"
VAE_LEVEL = "first_stage_model.encoder.down.{}.block.0.conv1.weight"
ENCODERS = {"cond_stage_model.transformer.text_model.embeddings.token_embedding.weight": 512,
            "cond_stage_model.model.token_embedding.weight": 768}
"""Word embeddings of Stable Diffusion 1 and 2, and the size of the pictures each was trained with, in pixels."""
OTHERS = {"conditioner.embedders.0.": "Stable Diffusion XL", "joint_blocks.0.": "Stable Diffusion 3",
          "double_blocks.0.": "FLUX"}


def identify_checkpoint(path: Path) -> Card | None:
    """Card of a whole checkpoint; None for a safetensors file that is something else, such as an adapter or a part.

    Raises:
        BadFile: damaged, or a model that no engine serves; says which.
        OSError: it cannot be read.
    """
    header = read_safetensors(path)
    shapes = header.shapes
    for key, name in OTHERS.items():
        if any(tensor.removeprefix("model.diffusion_model.").startswith(key) for tensor in shapes):
            raise BadFile(f"a {name} checkpoint, which is not supported yet; Stable Diffusion 1 and 2 are")
    if FIRST_CONV not in shapes:
        return None
    size = next((size for key, size in ENCODERS.items() if key in shapes), None)
    if size is None or VAE_LEVEL.format(0) not in shapes:
        raise BadFile("a checkpoint without its text encoder or its VAE; only whole ones can be used")
    if shapes[FIRST_CONV][1] != 4:
        raise BadFile(f"a checkpoint whose UNet takes {shapes[FIRST_CONV][1]} channels (for inpainting or depth): not "
                      "supported yet")
    width = next((shape[1] for key, shape in shapes.items() if key.endswith("attn2.to_k.weight")), None)
    factor = 2 ** (sum(VAE_LEVEL.format(level) in shapes for level in range(8)) - 1)
    return Card(
        id=path.stem, panel="image", family="sd1", format="checkpoint", path=str(path), bytes=path.stat().st_size,
        name=header.metadata.get("modelspec.title") or path.stem, license=header.metadata.get("modelspec.license"),
        size=_size(header, path, size), multiple=factor, text_width=width, parameters=header.parameters,
        fingerprint=fingerprint([header.header_sha256], [path]))


def _size(header: SafetensorsHeader, path: Path, usual: int) -> int:
    """Pixels of a side: as the file says (modelspec, "512x512"), or its name, or as usual for its kind."""
    told = header.metadata.get("modelspec.resolution", "").partition("x")[0]
    if told.isdigit() and 64 <= int(told) <= 4096:
        return int(told)
    return next((size for size in (512, 768) if str(size) in path.stem), usual)
