"""Tiny folders of several model families with random weights, saved by diffusers itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from tokenizers import Tokenizer
from tokenizers.models import Unigram
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
)

WINDOW = 20
"""Tokens of the tiny CLIP encoders."""
NO_PARTS: dict[str, Any] = {"safety_checker": None, "feature_extractor": None, "image_encoder": None}


def clip_tokens(folder: Path, pad: str = "<|endoftext|>") -> CLIPTokenizer:
    """A CLIP tokenizer of single letters and a few merges."""
    folder.mkdir(parents=True)
    letters = [chr(code) for code in range(33, 127)]
    merges = ["r e", "re d</w>", "c a", "ca t</w>", "b l", "bl u", "blu e</w>"]
    words = ["".join(merge.split()) for merge in merges]
    tokens = [*letters, *(letter + "</w>" for letter in letters), *words, "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
    return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=WINDOW, pad_token=pad)


def clip(tokenizer: CLIPTokenizer, projected: bool = False, width: int = 32, activation: str = "quick_gelu") -> Any:
    kind = CLIPTextModelWithProjection if projected else CLIPTextModel
    return kind(CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=37, num_hidden_layers=4, num_attention_heads=4,
        max_position_embeddings=WINDOW, projection_dim=24 if projected else width, hidden_act=activation,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=1))


def t5() -> tuple[T5TokenizerFast, T5EncoderModel]:
    letters = [chr(code) for code in range(32, 127)] + ["▁"]
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((letter, -3.0) for letter in letters)]
    tokenizer = T5TokenizerFast(
        tokenizer_object=Tokenizer(Unigram(pieces, unk_id=2)), pad_token="<pad>", eos_token="</s>", unk_token="<unk>",
        extra_ids=0)
    encoder = T5EncoderModel(T5Config(
        vocab_size=len(pieces), d_model=32, d_kv=8, d_ff=37, num_layers=2, num_heads=4, is_encoder_decoder=False,
        feed_forward_proj="gated-gelu"))
    return tokenizer, encoder


def vae(channels: int = 4, **fields: Any) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8, 16), layers_per_block=1, latent_channels=channels, norm_num_groups=4,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        **{"scaling_factor": 0.5, **fields})


def unet(inputs: int = 4, **fields: Any) -> UNet2DConditionModel:
    return UNet2DConditionModel(**{
        "block_out_channels": (16, 32), "layers_per_block": 1, "sample_size": 16, "in_channels": inputs,
        "out_channels": 4, "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"), "cross_attention_dim": 32, "attention_head_dim": 4,
        "norm_num_groups": 8, **fields})


def euler(**fields: Any) -> EulerDiscreteScheduler:
    return EulerDiscreteScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, steps_offset=1,
                                  timestep_spacing="leading", **fields)


def write_sdxl(folder: Path, inputs: int = 4, **vae_fields: Any) -> Path:
    """Encoders of 32 and 40 features, their states side by side 72; the pooled text has 24."""
    torch.manual_seed(5)
    first, second = clip_tokens(folder / "words"), clip_tokens(folder / "words2", "!")
    StableDiffusionXLPipeline(
        vae=vae(**vae_fields), text_encoder=clip(first), text_encoder_2=clip(second, True, 40, "gelu"),
        tokenizer=first, tokenizer_2=second, scheduler=euler(), unet=_xl_unet(inputs, 72, 24 + 6 * 8),
        add_watermarker=False).save_pretrained(folder)
    if inputs != 4:
        _rename(folder, "StableDiffusionXLInpaintPipeline")
    return folder


def write_refiner(folder: Path) -> Path:
    torch.manual_seed(6)
    words = clip_tokens(folder / "words", "!")
    StableDiffusionXLImg2ImgPipeline(
        vae=vae(), text_encoder=None, text_encoder_2=clip(words, True, 40, "gelu"), tokenizer=None, tokenizer_2=words,
        scheduler=euler(), unet=_xl_unet(4, 40, 24 + 5 * 8), requires_aesthetics_score=True,
        force_zeros_for_empty_prompt=False, add_watermarker=False).save_pretrained(folder)
    return folder


def _xl_unet(inputs: int, context: int, told: int) -> UNet2DConditionModel:
    return unet(inputs, cross_attention_dim=context, transformer_layers_per_block=(1, 2), use_linear_projection=True,
                attention_head_dim=(2, 4), addition_embed_type="text_time", addition_time_embed_dim=8,
                projection_class_embeddings_input_dim=told)


def write_inpaint(folder: Path) -> Path:
    """Stable Diffusion 1 with nine channels."""
    torch.manual_seed(7)
    words = clip_tokens(folder / "words")
    StableDiffusionInpaintPipeline(
        vae=vae(), text_encoder=clip(words), tokenizer=words, scheduler=euler(), unet=unet(9),
        requires_safety_checker=False, **NO_PARTS).save_pretrained(folder)
    return folder


def write_sd3(folder: Path) -> Path:
    torch.manual_seed(8)
    first, second = clip_tokens(folder / "words"), clip_tokens(folder / "words2", "!")
    words, encoder = t5()
    StableDiffusion3Pipeline(
        transformer=SD3Transformer2DModel(
            sample_size=16, patch_size=2, in_channels=16, num_layers=1, attention_head_dim=8, num_attention_heads=4,
            joint_attention_dim=32, caption_projection_dim=32, pooled_projection_dim=48, out_channels=16,
            pos_embed_max_size=32),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0), vae=vae(16, shift_factor=0.1),
        text_encoder=clip(first, True, 16), tokenizer=first, text_encoder_2=clip(second, True, 16, "gelu"),
        tokenizer_2=second, text_encoder_3=encoder, tokenizer_3=words).save_pretrained(folder)
    return folder


def write_flux(folder: Path) -> Path:
    torch.manual_seed(9)
    first = clip_tokens(folder / "words")
    words, encoder = t5()
    FluxPipeline(
        transformer=FluxTransformer2DModel(
            patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16,
            num_attention_heads=2, joint_attention_dim=32, pooled_projection_dim=32, axes_dims_rope=(4, 4, 8),
            guidance_embeds=True),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True), vae=vae(shift_factor=0.1),
        text_encoder=clip(first), tokenizer=first, text_encoder_2=encoder, tokenizer_2=words).save_pretrained(folder)
    return folder


def write_pixart(folder: Path) -> Path:
    torch.manual_seed(10)
    words, encoder = t5()
    PixArtSigmaPipeline(
        transformer=PixArtTransformer2DModel(
            sample_size=16, patch_size=2, in_channels=4, out_channels=8, num_layers=1, attention_head_dim=8,
            num_attention_heads=4, cross_attention_dim=32, caption_channels=32, use_additional_conditions=False),
        scheduler=euler(), vae=vae(), text_encoder=encoder, tokenizer=words).save_pretrained(folder)
    return folder


def _rename(folder: Path, pipeline: str) -> None:
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, "_class_name": pipeline}))
