"""What a safetensors file beside the models is, by the names and shapes of its tensors."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from diptych.core.cards import PartKind

Shapes = Mapping[str, tuple[int, ...]]
CONTEXTS = {768: "sd1", 1024: "sd2", 2048: "sdxl"}
"""Families by the width of the text context that their UNets attend to."""
LEAST_WIDTH, MAX_VECTORS = 16, 128
"""Of what may be an embedding: values of a vector at least, vectors at most."""
CLIP_G = 1280
"""Width of the second text encoder of Stable Diffusion XL."""
LORA_MARKS = ("lora_down", "lora_up", "lora_A", "lora_B", "lora.down", "lora.up", "lora_mid", "hada_w1", "hada_w2",
              "lokr_w1", "lokr_w2", "lora_magnitude_vector", "dora_scale", ".oft_", "oft_blocks", ".glora", "a1.weight",
              ".diff", "lora_te", "lora_unet")
IMAGE_MARKS = ("lora_unet_", "lora_te", "lora_prior_", "lora_transformer_", "down_blocks", "up_blocks", "mid_block",
               "text_model.", "unet.", "text_encoder", "transformer_blocks", "double_blocks", "single_blocks",
               "joint_blocks", "input_blocks", "output_blocks")
"""One of these is in the key names of adapters of image models, and in none of language models."""


@dataclass(frozen=True)
class Found:
    """See `PartCard`."""

    kind: PartKind
    family: str | None = None
    text_width: int | None = None
    channels: int | None = None
    rank: int | None = None
    triggers: tuple[str, ...] = ()


def recognized(shapes: Shapes) -> Found | None:
    """What these tensors are; None for what is no part that an image model could use."""
    for rule in _RULES:
        found = rule(shapes)
        if found is not None:
            return found
    return None


def family_of(width: int | None) -> str | None:
    """The family whose text context has this width; a model of an unusual width is a Stable Diffusion 1 of another
    size."""
    return None if width is None else CONTEXTS.get(width, "sd1")


def _having(shapes: Shapes, pattern: str, axis: int) -> int | None:
    """Size along `axis` of the first tensor whose name matches."""
    wanted = re.compile(pattern)
    return next((shape[axis] for key, shape in shapes.items() if len(shape) > axis and wanted.search(key)), None)


def _any(shapes: Shapes, *starts: str) -> bool:
    return any(key.startswith(starts) for key in shapes)


def _controlnet(shapes: Shapes) -> Found | None:
    ldm = _any(shapes, "control_model.", "zero_convs.0.", "input_hint_block.0.")
    if not ldm and not _any(shapes, "controlnet_cond_embedding.", "controlnet_down_blocks.0."):
        return None
    width = _having(shapes, r"attn2\.to_k\.weight$", 1)
    return Found("controlnet", family_of(width), width)


def _lora(shapes: Shapes) -> Found | None:
    if not any(mark in key for key in shapes for mark in LORA_MARKS) or not any(
            mark in key for key in shapes for mark in IMAGE_MARKS):
        return None
    family, width = _lora_family(shapes)
    return Found("lora", family, width, rank=_rank(shapes))


def _lora_family(shapes: Shapes) -> tuple[str | None, int | None]:
    if any("double_blocks" in key or "single_transformer_blocks" in key or "single_blocks" in key for key in shapes):
        return "flux", None
    if any("joint_blocks" in key or key.startswith(("lora_transformer_", "transformer.")) for key in shapes):
        return "sd3", None
    width = (_having(shapes, r"attn2[._]to_[kv][._](?:processor[._])?(?:lora[._])?(?:lora_)?(?:down|A)\b.*weight$", 1)
             or _having(shapes, r"attn2[._]to_[kv]\.(?:hada_w1_b|hada_w2_b)$", 1)
             or _lokr_inputs(shapes))
    if width is not None:
        return family_of(width), width
    if any(key.startswith(("lora_te1_", "lora_te2_", "text_encoder_2.")) for key in shapes):
        return "sdxl", None
    text = _having(shapes, r"^(?:lora_te_|text_encoder\.).*q_proj.*(?:down|A)\b.*weight$", 1)
    return family_of(text), text


def _lokr_inputs(shapes: Shapes) -> int | None:
    """Inputs of a layer that attends to the text: those of both Kronecker factors together."""
    for key, shape in shapes.items():
        match = re.match(r"(.*attn2[._]to_[kv])\.lokr_w1(_b)?$", key)
        if match and len(shape) == 2:
            second = shapes.get(f"{match[1]}.lokr_w2") or shapes.get(f"{match[1]}.lokr_w2_b")
            if second is not None and len(second) >= 2:
                return shape[1] * second[1]
    return None


def _rank(shapes: Shapes) -> int | None:
    """The largest one: layers may differ."""
    downs = [shape[0] for key, shape in shapes.items()
             if len(shape) >= 2 and re.search(r"lora_down\.|lora_A\.|lora\.down\.|hada_w1_b$|lokr_w[12]_b$", key)]
    return max(downs, default=None)


def _ip_adapter(shapes: Shapes) -> Found | None:
    if not _any(shapes, "image_proj.") or not _any(shapes, "ip_adapter."):
        return None
    width = _having(shapes, r"to_k_ip\.weight$", 1)
    return Found("ip_adapter", family_of(width), width)


def _t2i_adapter(shapes: Shapes) -> Found | None:
    if "adapter.body.0.resnets.0.block1.weight" not in shapes and "body.0.block1.weight" not in shapes:
        return None
    inputs = _having(shapes, r"^(?:adapter\.)?conv_in\.weight$", 1)
    # The picture's pixels are folded into channels: 8 × 8 of 1 or 3 for Stable Diffusion 1, 16 × 16 for XL.
    return Found("t2i_adapter", "sdxl" if inputs in (256, 768) else "sd1")


def _vae(shapes: Shapes) -> Found | None:
    names = {key.removeprefix("first_stage_model.").removeprefix("vae."): shape for key, shape in shapes.items()}
    if "decoder.conv_in.weight" in names and _any(names, "encoder.down.0.", "encoder.down_blocks.0."):
        return Found("vae", channels=names["decoder.conv_in.weight"][1])
    if "encoder.layers.0.weight" in names and "decoder.layers.0.weight" in names:
        return Found("vae", channels=names["decoder.layers.0.weight"][1])
    return None


def _embedding(shapes: Shapes) -> Found | None:
    if not 1 <= len(shapes) <= 2 or not all(1 <= len(shape) <= 2 for shape in shapes.values()):
        return None
    for first, second in (("clip_l", "clip_g"), ("text_encoders_0", "text_encoders_1")):
        if set(shapes) == {first, second}:
            return Found("embedding", "sdxl", shapes[first][-1] + shapes[second][-1])
    key, shape = next(iter(shapes.items()))
    named = key in ("emb_params", "*", "string_to_param", "clip_l", "clip_g")
    plausible = shape[-1] >= LEAST_WIDTH and (len(shape) == 1 or shape[0] <= MAX_VECTORS)
    if len(shapes) != 1 or not plausible or (not named and "." in key):
        return None
    family = "sdxl" if shape[-1] == CLIP_G else family_of(shape[-1])
    return Found("embedding", family, shape[-1], triggers=() if named else (key,))


def _upscaler(shapes: Shapes) -> Found | None:
    names = {key.removeprefix("params_ema.").removeprefix("params."): shape for key, shape in shapes.items()}
    marks: Iterable[str] = ("model.1.sub.0.RDB1.conv1.0.weight", "RRDB_trunk.0.RDB1.conv1.weight",
                            "body.0.rdb1.conv1.weight")
    compact = _compact(names)
    windows = "conv_first.weight" in names and _any(names, "layers.0.residual_group.", "layers.0.blocks.")
    return Found("upscaler") if compact or windows or any(mark in names for mark in marks) else None


def _compact(names: Shapes) -> bool:
    """Real-ESRGAN's small network: `body.N` alone, convolutions and PReLU in turn."""
    return all(re.fullmatch(r"body\.\d+\.(?:weight|bias)", key) for key in names) and len(
        names.get("body.0.weight", ())) == 4 and len(names.get("body.1.weight", ())) == 1


def _image_encoder(shapes: Shapes) -> Found | None:
    """CLIP's picture half alone, which IP-Adapters read reference pictures with."""
    vision = any(key.startswith("vision_model.embeddings.") for key in shapes)
    return Found("image_encoder") if vision and not _any(shapes, "text_model.") else None


_RULES: tuple[Callable[[Shapes], Found | None], ...] = (
    _controlnet, _ip_adapter, _t2i_adapter, _lora, _vae, _upscaler, _image_encoder, _embedding)
