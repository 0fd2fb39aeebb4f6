"""Files beside the models, known by their headers: the key names are those that diffusers and the trainers write."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from diptych.core.errors import NotFound
from diptych.library import Library
from diptych.settings import Settings

ATTN = "down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
DOTTED = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"


def write(path: Path, shapes: dict[str, tuple[int, ...]], fill: int = 0, **metadata: str) -> Path:
    """A safetensors file of float16 tensors."""
    path.parent.mkdir(parents=True, exist_ok=True)
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    offset = 0
    for name, shape in shapes.items():
        size = 2
        for side in shape:
            size *= side
        header[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    raw = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + bytes([fill]) * offset)
    return path


def lora(width: int, rank: int = 4) -> dict[str, tuple[int, ...]]:
    return {f"lora_unet_{ATTN}.lora_down.weight": (rank, width), f"lora_unet_{ATTN}.lora_up.weight": (320, rank),
            f"lora_unet_{ATTN}.alpha": ()}


FILES: dict[str, tuple[dict[str, tuple[int, ...]], tuple[Any, ...]]] = {
    "kohya": (lora(768), ("lora", "sd1", 768, 4)),
    "kohya2": (lora(1024, 8), ("lora", "sd2", 1024, 8)),
    "kohyaxl": (lora(2048), ("lora", "sdxl", 2048, 4)),
    "diffusers": ({f"unet.{DOTTED}.lora_A.weight": (2, 768), f"unet.{DOTTED}.lora_B.weight": (320, 2)},
                  ("lora", "sd1", 768, 2)),
    "old": ({f"unet.{DOTTED}.lora.down.weight": (2, 768), f"unet.{DOTTED}.lora.up.weight": (320, 2)},
            ("lora", "sd1", 768, 2)),
    "peft": ({f"base_model.model.{DOTTED}.lora_A.weight": (2, 1024),
              f"base_model.model.{DOTTED}.lora_B.weight": (4, 2)},
             ("lora", "sd2", 1024, 2)),
    "loha": ({f"lora_unet_{ATTN}.hada_{name}": shape for name, shape in (
        ("w1_a", (320, 4)), ("w1_b", (4, 768)), ("w2_a", (320, 4)), ("w2_b", (4, 768)))}, ("lora", "sd1", 768, 4)),
    "lokr": ({f"lora_unet_{ATTN}.lokr_w1": (8, 16), f"lora_unet_{ATTN}.lokr_w2_a": (40, 4),
              f"lora_unet_{ATTN}.lokr_w2_b": (4, 48)}, ("lora", "sd1", 768, 4)),
    "textonly": ({"lora_te1_text_model_encoder_layers_0_self_attn_q_proj.lora_down.weight": (4, 768)},
                 ("lora", "sdxl", None, 4)),
    "flux": ({"lora_unet_double_blocks_0_img_attn_proj.lora_down.weight": (4, 3072)}, ("lora", "flux", None, 4)),
    "a1111-style": ({"emb_params": (3, 768)}, ("embedding", "sd1", 768, None)),
    "concept": ({"<cat-toy>": (1024,)}, ("embedding", "sd2", 1024, None)),
    "negative-xl": ({"clip_l": (2, 768), "clip_g": (2, 1280)}, ("embedding", "sdxl", 2048, None)),
    "vae-ldm": ({"encoder.down.0.block.0.conv1.weight": (8, 8, 3, 3), "decoder.conv_in.weight": (8, 4, 3, 3)},
                ("vae", None, None, None)),
    "vae-prefix": ({"first_stage_model.encoder.down.0.block.0.conv1.weight": (8, 8, 3, 3),
                    "first_stage_model.decoder.conv_in.weight": (8, 4, 3, 3)}, ("vae", None, None, None)),
    "vae-diffusers": ({"encoder.down_blocks.0.resnets.0.conv1.weight": (8, 8, 3, 3),
                       "decoder.conv_in.weight": (8, 16, 3, 3)}, ("vae", None, None, None)),
    "taesd": ({"encoder.layers.0.weight": (8, 3, 3, 3), "decoder.layers.0.weight": (8, 4, 3, 3)},
              ("vae", None, None, None)),
    "canny-ldm": ({"control_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (320, 768),
                   "control_model.zero_convs.0.0.weight": (320, 320, 1, 1)}, ("controlnet", "sd1", 768, None)),
    "canny": ({"controlnet_cond_embedding.conv_in.weight": (16, 3, 3, 3), f"{DOTTED}.weight": (640, 2048)},
              ("controlnet", "sdxl", 2048, None)),
    "t2i": ({"adapter.body.0.resnets.0.block1.weight": (320, 320, 3, 3), "adapter.conv_in.weight": (320, 64, 3, 3)},
            ("t2i_adapter", "sd1", None, None)),
    "t2ixl": ({"body.0.block1.weight": (320, 320, 3, 3), "conv_in.weight": (320, 768, 3, 3)},
              ("t2i_adapter", "sdxl", None, None)),
    "ip-adapter_sd15": ({"image_proj.proj.weight": (3072, 1024), "ip_adapter.1.to_k_ip.weight": (320, 768)},
                        ("ip_adapter", "sd1", 768, None)),
    "esrgan-old": ({"model.0.weight": (64, 3, 3, 3), "model.1.sub.0.RDB1.conv1.0.weight": (32, 64, 3, 3)},
                   ("upscaler", None, None, None)),
    "realesrgan": ({"conv_first.weight": (64, 3, 3, 3), "body.0.rdb1.conv1.weight": (32, 64, 3, 3)},
                   ("upscaler", None, None, None)),
    "compact": ({"body.0.weight": (64, 3, 3, 3), "body.0.bias": (64,), "body.1.weight": (64,),
                 "body.2.weight": (48, 64, 3, 3)}, ("upscaler", None, None, None)),
}


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    """One with all of the files, some of them in a folder of their own."""
    root = tmp_path_factory.mktemp("parts")
    settings = Settings(data_dir=root / "data", model_dirs=(root / "more",))
    for place, (name, (shapes, _)) in enumerate(FILES.items()):
        write((settings.model_dirs[0] if place % 2 else settings.models_dir / "some") / f"{name}.safetensors", shapes)
    return Library(settings)


@pytest.mark.parametrize("name", FILES)
def test_kinds(library: Library, name: str) -> None:
    kind, family, width, rank = FILES[name][1]
    part = library.part(kind, name)
    assert (part.kind, part.family, part.text_width, part.rank) == (kind, family, width, rank)


def test_parts_are_no_problems_and_no_models(library: Library) -> None:
    assert library.problems() == []
    assert [card.id for card in library.cards() if card.id != "starter"] == []
    assert {part.id for part in library.parts()} >= set(FILES)
    assert [part.id for part in library.parts("t2i_adapter")] == ["t2i", "t2ixl"]
    assert library.part("vae", "vae-diffusers").channels == 16
    assert library.part("embedding", "concept").triggers == ("<cat-toy>",)


def test_unknown_parts_are_told_with_what_is_there(library: Library) -> None:
    with pytest.raises(NotFound, match=r"no VAE 'nope'; there are: taesd, vae-diffusers, vae-ldm, vae-prefix"):
        library.part("vae", "nope")
    with pytest.raises(NotFound, match="no detector 'x'; there are: none"):
        library.part("detector", "x")
    assert library.part("lora", "KOHYA").id == "kohya"


def test_what_the_file_says(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    tags = {"10_sks dog": {"dog": 9, "grass": 3}, "1_reg": {"grass": 8}}
    write(settings.models_dir / "told.safetensors", lora(768), ss_tag_frequency=json.dumps(tags),
          ss_output_name="My Dog", **{"modelspec.license": "MIT", "modelspec.trigger_phrase": "photo of sks"})
    write(settings.models_dir / "broken.safetensors", lora(768), ss_tag_frequency="{")
    write(settings.models_dir / "self.safetensors",
          {"lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight": (4, 320)},
          ss_base_model_version="sdxl_base_v1-0")
    write(settings.models_dir / "nameless" / "pytorch_lora_weights.safetensors", lora(768, 2))
    write(settings.models_dir / "a" / "same.safetensors", lora(768), 1)
    write(settings.models_dir / "b" / "same.safetensors", lora(768), 2)
    write(settings.models_dir / "c" / "same.safetensors", lora(768), 1)
    write(settings.models_dir / "llm" / "adapter_model.safetensors",
          {"base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight": (4, 64)})
    (settings.models_dir / "broken2.safetensors").write_bytes(b"nothing")
    (settings.models_dir / "old.pt").write_bytes(b"PK\x03\x04")
    library = Library(settings)
    told = library.part("lora", "told")
    assert told.triggers == ("photo of sks", "sks dog", "reg", "grass", "dog") and told.license == "MIT"
    assert library.part("lora", "my dog") == told
    assert library.part("lora", "broken").triggers == ()
    assert library.part("lora", "self").family == "sdxl" and library.part("lora", "nameless").rank == 2
    same = [part.id for part in library.parts("lora") if part.id.startswith("same")]
    assert len(same) == 2 and same[0] == "same" and same[1].startswith("same-")
    assert len(library.parts("lora")) == 6
    problems = {Path(line.partition(": ")[0]).name: line for line in library.problems()}
    assert set(problems) == {"broken2.safetensors", "old.pt"} and "diptych models convert" in problems["old.pt"]


def test_folders_of_diffusers(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    folders: dict[str, tuple[dict[str, Any], str]] = {
        "my-canny": ({"_class_name": "ControlNetModel", "cross_attention_dim": 768}, "canny"),
        "my-vae": ({"_class_name": "AutoencoderKL", "scaling_factor": 0.13025}, "vae-diffusers"),
        "my-t2i": ({"_class_name": "T2IAdapter"}, "t2i"),
        "wrong": ({"_class_name": "ControlNetModel"}, "t2i"),
    }
    for name, (config, shapes) in folders.items():
        write(settings.models_dir / name / "diffusion_pytorch_model.safetensors", FILES[shapes][0])
        (settings.models_dir / name / "config.json").write_text(json.dumps(config))
    write(settings.models_dir / "clip" / "model.safetensors", {"vision_model.embeddings.class_embedding": (32,)})
    (settings.models_dir / "clip" / "config.json").write_text(
        json.dumps({"architectures": ["CLIPVisionModelWithProjection"]}))
    library = Library(settings)
    assert [(part.id, part.kind, part.family) for part in library.parts()
            if Path(part.path).is_relative_to(settings.models_dir)] == [
        ("my-canny", "controlnet", "sd1"), ("clip", "image_encoder", None), ("my-t2i", "t2i_adapter", "sd1"),
        ("my-vae", "vae", "sdxl")]
    assert Path(library.part("vae", "my-vae").path) == settings.models_dir / "my-vae"
    assert len(library.problems()) == 1 and "its weights are something else" in library.problems()[0]
