"""What a model is, from its headers and JSON files alone: no weights are read beyond a few samples."""

from __future__ import annotations

import glob
import re
from pathlib import Path
from typing import Any

from diptych.core.cards import Card
from diptych.core.pipelines import PIPELINES, samplers_of
from diptych.library import text_traits
from diptych.library.checkpoint import CHANNELS
from diptych.library.files import fingerprint, front_matter, read_json
from diptych.library.gguf import BadFile, GgufHeader, read_gguf
from diptych.library.pickles import PICKLES, told_pickled
from diptych.library.safetensors_header import read_safetensors

MODEL_INDEX = "model_index.json"
FAMILIES = {"StableDiffusionPipeline": "sd1", "StableDiffusionImg2ImgPipeline": "sd1",
            "StableDiffusionInpaintPipeline": "sd1", "LatentConsistencyModelPipeline": "sd1",
            "StableDiffusionXLPipeline": "sdxl", "StableDiffusionXLImg2ImgPipeline": "sdxl",
            "StableDiffusionXLInpaintPipeline": "sdxl", **dict.fromkeys(PIPELINES, "pipeline")}
"""Pipeline class of a diffusers folder: the engine's family."""
WEIGHTLESS = ("scheduler", "tokenizer", "feature_extractor", "image_processor", "processor", "safety_checker")
"""Beginnings of the names of parts that hold no weights, or whose weights are never loaded."""
LIBRARIES = ("diffusers", "transformers", "stable_diffusion")
"""Where the classes of parts may come from; the last one is the safety checker's, which is not loaded."""
USUAL_FACTOR, SD2_WIDTH = 8, 1024
"""Pixels per latent where a VAE does not tell; the width of the text context of Stable Diffusion 2."""
NOT_LANGUAGE = {"clip", "mmproj", "sd1", "sdxl", "sd3", "flux", "wan", "t5encoder", "whisper"}
"""GGUF architectures of other things than language models."""
_PART_OF = re.compile(r"-(\d{5})-of-(\d{5})$")


def identify_gguf(path: Path, id: str | None = None) -> Card | None:
    """Card of a GGUF language model; None for a GGUF file that is something else or a further part of a split one.

    Raises:
        BadFile: damaged or cut short.
        OSError: it cannot be read.
    """
    part = _PART_OF.search(path.stem)
    if part is not None and int(part[1]) != 1:
        return None
    header = read_gguf(path)
    architecture = header.architecture
    if architecture is None:
        raise BadFile("the header does not say the model's architecture (general.architecture)")
    if architecture in NOT_LANGUAGE or text_traits.is_adapter(header):
        return None
    files = [path] if part is None else _split_files(path, int(part[2]))
    parameters = header.parameters + sum(read_gguf(file).parameters for file in files[1:])
    return Card(
        id=id or _PART_OF.sub("", path.stem), panel="text", family="gguf", format="gguf", path=str(path),
        bytes=sum(file.stat().st_size for file in files), name=header.text("general.name") or path.stem,
        license=_gguf_license(header), context=header.context_length,
        parameters=parameters, fingerprint=fingerprint([header.header_sha256], files), **_text_traits(path, header))


def _text_traits(path: Path, header: GgufHeader) -> dict[str, Any]:
    projector = text_traits.projector(path, header)
    return {
        "tasks": text_traits.tasks(header), "architecture": header.architecture,
        "dialect": text_traits.dialect(header), "tools": text_traits.takes_tools(header),
        "tokenizer": text_traits.mistral_tokenizer(header), "vision": projector is not None,
        "projector": str(projector) if projector else None, "adapters": text_traits.adapters(path, header),
        "embedding": header.number(f"{header.architecture}.embedding_length"),
    }


def identify_diffusers(folder: Path, id: str | None = None) -> Card:
    """Card of a folder in the layout of diffusers.

    Raises:
        BadFile: a part is missing, damaged, pickled, or of a kind that no engine serves; says which.
        OSError: a file cannot be read.
    """
    index = read_json(folder / MODEL_INDEX)
    pipeline = index.get("_class_name")
    if pipeline not in FAMILIES:
        raise BadFile(f"its pipeline is {pipeline!r}; supported: {', '.join(FAMILIES)}")
    for name, kind in index.items():
        if _is_part(kind) and kind[0] not in LIBRARIES:
            raise BadFile(f"part {name!r} is a class of {kind[0]!r}; only those of diffusers and transformers are used")
    parts = [name for name, kind in index.items() if _is_part(kind) and not name.startswith(WEIGHTLESS)]
    files = [file for part in parts for file in _weight_files(folder / part)]
    headers = [read_safetensors(file) for file in files]
    front = front_matter(folder / "README.md")
    traits = _pipeline_traits(folder, str(pipeline)) if pipeline in PIPELINES else _unet_traits(folder)
    return Card(
        id=id or folder.name, panel="image", family=FAMILIES[str(pipeline)], format="diffusers", path=str(folder),
        bytes=sum(file.stat().st_size for file in files), name=front.get("name") or folder.name,
        license=front.get("license"), parameters=sum(header.parameters for header in headers),
        fingerprint=fingerprint([header.header_sha256 for header in headers], files), **traits)


def _unet_traits(folder: Path) -> dict[str, Any]:
    """What the configurations of Stable Diffusion 1, 2 and XL say."""
    unet = read_json(folder / "unet" / "config.json")
    factor = _vae_factor(read_json(folder / "vae" / "config.json"))
    width, channels = unet.get("cross_attention_dim"), unet.get("in_channels")
    latents = read_json(folder / "vae" / "config.json").get("latent_channels", 4)
    if isinstance(channels, int) and isinstance(latents, int) and channels not in (latents, 2 * latents + 1):
        why = CHANNELS.get(channels, f"{latents} are a picture's, and {2 * latents + 1} those of inpainting")
        raise BadFile(f"its UNet takes {channels} channels: {why}; not supported")
    if not unet.get("addition_embed_type"):
        architecture = "sd2" if width == SD2_WIDTH else "sd1"
    else:
        architecture = "sdxl" if (folder / "text_encoder").is_dir() else "sdxl-refiner"
    return {"size": _sample_size(unet) * factor, "multiple": factor, "architecture": architecture,
            "text_width": width if isinstance(width, int) else None,
            "inpaint": isinstance(channels, int) and channels != latents}


def _pipeline_traits(folder: Path, pipeline: str) -> dict[str, Any]:
    """What the configurations of other families say; what they leave open is as usual for the family."""
    traits = PIPELINES[pipeline]
    part = next((name for name in ("transformer", "unet") if (folder / name).is_dir()), "transformer")
    core, vae = read_json(folder / part / "config.json"), read_json(folder / "vae" / "config.json")
    channels = vae.get("block_out_channels") or vae.get("encoder_block_out_channels")
    factor = _vae_factor(vae) if channels else USUAL_FACTOR
    side, patch = core.get("sample_size"), core.get("patch_size")
    patch = 2 if traits.packed else patch if isinstance(patch, int) and 1 <= patch <= 16 else 1
    scheduler = read_json(folder / "scheduler" / "scheduler_config.json")
    return {"size": side * factor if isinstance(side, int) and 1 <= side <= 4096 else traits.size,
            "multiple": factor * patch, "architecture": pipeline, "samplers": samplers_of(scheduler)}


def part_files(path: Path) -> list[Path]:
    """The files of one GGUF model that are there: itself, or all parts of a split one."""
    part = _PART_OF.search(path.stem)
    if part is None:
        return [path]
    pattern = f"{glob.escape(_PART_OF.sub('', path.stem))}-?????-of-{part[2]}.gguf"
    return sorted(path.parent.glob(pattern)) or [path]


def _is_part(kind: Any) -> bool:
    """Entries of model_index.json that name a part are `[library, class]`; `[null, null]` is a part left out."""
    return isinstance(kind, list) and len(kind) == 2 and all(isinstance(name, str) for name in kind)


def _weight_files(part: Path) -> list[Path]:
    """The safetensors files of a part: the plain ones, or the fp16 variant where it is alone."""
    found = sorted(part.glob("*.safetensors"))
    if not found:
        pickled = any(part.glob(f"*{ending}") for ending in PICKLES)
        raise BadFile(f"part {part.name!r} has " + (
            f"only {told_pickled(part.parent)}" if pickled else "no safetensors weights"))
    plain = [file for file in found if ".fp16" not in file.name and ".non_ema" not in file.name]
    return plain or found


def _split_files(first: Path, count: int) -> list[Path]:
    stem = _PART_OF.sub("", first.stem)
    files = [first.with_name(f"{stem}-{number:05d}-of-{count:05d}.gguf") for number in range(1, count + 1)]
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise BadFile(f"{len(missing)} of its {count} files are missing, e.g. {missing[0]}")
    return files


def _vae_factor(config: dict[str, Any]) -> int:
    """Pixels per latent along one side: every block of the VAE but the last halves the picture."""
    channels = config.get("block_out_channels") or config.get("encoder_block_out_channels")
    if not isinstance(channels, list) or not 1 <= len(channels) <= 8:
        raise BadFile(f"vae/config.json: block_out_channels is {channels!r}, not a list of 1 to 8 numbers")
    return int(2 ** (len(channels) - 1))


def _sample_size(config: dict[str, Any]) -> int:
    size = config.get("sample_size")
    if not isinstance(size, int) or not 1 <= size <= 4096:
        raise BadFile(f"unet/config.json: sample_size is {size!r}, not a whole number from 1 to 4096")
    return size


def _gguf_license(header: GgufHeader) -> str | None:
    return header.text("general.license") or header.text("general.license.name")
