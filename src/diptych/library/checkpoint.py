"""Stable Diffusion checkpoints in one safetensors file, by the key names in their headers."""

from __future__ import annotations

from pathlib import Path

from diptych.core.cards import Card
from diptych.library.files import fingerprint
from diptych.library.gguf import BadFile
from diptych.library.safetensors_header import SafetensorsHeader, read_safetensors

FIRST_CONV = "model.diffusion_model.input_blocks.0.0.weight"
VAE_LEVEL = "first_stage_model.encoder.down.{}.block.0.conv1.weight"
ENCODERS = {"cond_stage_model.transformer.text_model.embeddings.token_embedding.weight": ("sd1", "sd1", 512),
            "cond_stage_model.model.token_embedding.weight": ("sd1", "sd2", 768),
            "conditioner.embedders.1.model.token_embedding.weight": ("sdxl", "sdxl", 1024),
            "conditioner.embedders.0.model.token_embedding.weight": ("sdxl", "sdxl-refiner", 1024)}
"""Word embeddings of Stable Diffusion 1, 2, XL and XL's refiner: the engine's family, the architecture, and the size of
the pictures each was trained with, in pixels."""
OTHERS = {"joint_blocks.0.": "Stable Diffusion 3", "double_blocks.0.": "FLUX", "double_stream_modulation": "FLUX.2",
          "cap_embedder.": "Lumina or Z-Image"}
"""The beginnings of names in checkpoints of families that are served from folders only."""
CHANNELS = {5: "it takes a depth map beside the picture", 7: "it enlarges pictures",
            8: "it follows instructions (InstructPix2Pix)"}
"""Why models whose UNet takes so many channels are refused; 4 are a picture's, 9 those of inpainting."""
EDM = "edm_mean"
"""A tensor of models that were trained on EDM's noise levels (Playground 2.5)."""


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
            raise BadFile(f"a {name} model in one file; of this family only folders in diffusers' layout can be used")
    if FIRST_CONV not in shapes:
        return None
    found = next((found for key, found in ENCODERS.items() if key in shapes), None)
    if found is None or VAE_LEVEL.format(0) not in shapes:
        raise BadFile("a checkpoint without its text encoder or its VAE; only whole ones can be used")
    channels = shapes[FIRST_CONV][1]
    if channels not in (4, 9):
        why = CHANNELS.get(channels, "4 are a picture's, and 9 those of inpainting")
        raise BadFile(f"a checkpoint whose UNet takes {channels} channels: {why}; not supported")
    if EDM in shapes:
        raise BadFile("a checkpoint that was trained on EDM's noise levels (Playground 2.5); not supported")
    family, architecture, size = found
    width = next((shape[1] for key, shape in shapes.items() if key.endswith("attn2.to_k.weight")), None)
    factor = 2 ** (sum(VAE_LEVEL.format(level) in shapes for level in range(8)) - 1)
    return Card(
        id=path.stem, panel="image", family=family, architecture=architecture, format="checkpoint", path=str(path),
        bytes=path.stat().st_size, name=header.metadata.get("modelspec.title") or path.stem,
        license=header.metadata.get("modelspec.license"), size=_size(header, path, size), multiple=factor,
        text_width=width, inpaint=channels == 9, parameters=header.parameters,
        fingerprint=fingerprint([header.header_sha256], [path]))


def _size(header: SafetensorsHeader, path: Path, usual: int) -> int:
    """Pixels of a side: as the file says (modelspec, "512x512"), or its name, or as usual for its kind."""
    told = header.metadata.get("modelspec.resolution", "").partition("x")[0]
    if told.isdigit() and 64 <= int(told) <= 4096:
        return int(told)
    return next((size for size in (512, 768, 1024) if str(size) in path.stem), usual)
