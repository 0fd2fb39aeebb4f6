"""Tiny models of real classes of transformers with random weights, made once per machine in the test cache."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tekken
import torch
import transformers
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

HIDDEN, CONTEXT = 64, 4096
SHAPE: dict[str, Any] = {
    "hidden_size": HIDDEN, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 128, "max_position_embeddings": CONTEXT, "tie_word_embeddings": True}
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<fim_prefix>", "<fim_suffix>", "<fim_middle>"]
WORDS = ("one two three four five six seven again Question Answer The last question. Be brief. word Hello. Tell me a "
         "story. Are you there? Say something. assistant user system the a of and to in is that for it as was with ")


def folder(name: str, make: Callable[[Path], None]) -> Path:
    """The folder `name` in the cache, made if it is not there; whole or not at all."""
    root = Path(os.environ.get("DIPTYCH_TEST_CACHE") or Path.home() / ".cache" / "diptych-tests")
    sources = b"".join(Path(str(file)).read_bytes() for file in (__file__, tekken.__file__))
    path = root / "tiny" / f"hf-{hashlib.sha256(sources).hexdigest()[:12]}" / name
    if not path.is_dir():
        path.parent.mkdir(parents=True, exist_ok=True)
        work = path.with_name(f".{name}.{os.getpid()}")
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        make(work)
        try:
            work.rename(path)
        except OSError:  # another one was faster
            shutil.rmtree(work)
    return path


def llama() -> Path:
    def make(path: Path) -> None:
        size = byte_tokenizer(path)
        config = transformers.LlamaConfig(vocab_size=size, bos_token_id=0, eos_token_id=2, pad_token_id=0, **SHAPE)
        save(transformers.LlamaForCausalLM(config), path)

    return folder("tiny-llama", make)


def mistral(version: str = "v7") -> Path:
    """Mistral's real Tekken vocabulary."""
    def make(path: Path) -> None:
        write_tekken(path, version)
        config = transformers.MistralConfig(
            vocab_size=tekken.SIZE, bos_token_id=1, eos_token_id=2, sliding_window=None, head_dim=16, **SHAPE)
        save(transformers.MistralForCausalLM(config), path)

    return folder(f"tiny-mistral-{version}", make)


PICTURES = {"image_patch_size": 14, "max_image_size": 112, "spatial_merge_size": 2}


def mistral3() -> Path:
    """Mistral Small 3.1's classes: a Pixtral tower of one layer before a Mistral model."""
    def make(path: Path) -> None:
        write_tekken(path, "v7", PICTURES)
        text = transformers.MistralConfig(
            vocab_size=tekken.SIZE, bos_token_id=1, eos_token_id=2, sliding_window=None, head_dim=16, **SHAPE)
        vision = transformers.PixtralVisionConfig(
            hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2, image_size=112,
            patch_size=14, head_dim=16)
        config = transformers.Mistral3Config(
            text_config=text, vision_config=vision, image_token_index=10, spatial_merge_size=2, vision_feature_layer=-1,
            tie_word_embeddings=True)
        save(transformers.Mistral3ForConditionalGeneration(config), path)

    return folder("tiny-mistral3", make)


def bert(name: str, pooling: str | None = None) -> Path:
    """An encoder; `name` "tiny-reranker" has one label instead."""
    def make(path: Path) -> None:
        word_tokenizer(path)
        config = transformers.BertConfig(
            vocab_size=57, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
            max_position_embeddings=128, num_labels=1)
        rerank = name == "tiny-reranker"
        save(transformers.BertForSequenceClassification(config) if rerank else transformers.BertModel(config), path)
        if pooling is not None:
            (path / "1_Pooling").mkdir()
            (path / "1_Pooling" / "config.json").write_text(json.dumps({
                "word_embedding_dimension": 32, **{f"pooling_mode_{mode}": mode == pooling for mode in (
                    "cls_token", "mean_tokens", "max_tokens", "lasttoken")}}))

    return folder(name, make)


def lora(model: Path, target: Path, seed: int = 3, **config: object) -> dict[str, torch.Tensor]:
    """A LoRA adapter in PEFT's layout in the folder `target`, for models of `SHAPE`; returns its tensors."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for layer in range(2):
        for name, rows, columns in (("self_attn.q_proj", 64, 64), ("mlp.down_proj", 64, 128)):
            key = f"base_model.model.model.layers.{layer}.{name}.lora_"
            tensors[f"{key}A.weight"] = torch.randn(4, columns, generator=generator)
            tensors[f"{key}B.weight"] = torch.randn(rows, 4, generator=generator) * 0.3
    target.mkdir(parents=True, exist_ok=True)
    save_file(tensors, target / "adapter_model.safetensors")
    (target / "adapter_config.json").write_text(json.dumps({
        "peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "down_proj"],
        "base_model_name_or_path": str(model), "bias": "none", **config}))
    return tensors


def byte_tokenizer(path: Path) -> int:
    """Byte-level BPE with at most 512 tokens and ChatML; returns their number."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator([WORDS * 4], trainers.BpeTrainer(
        vocab_size=512, special_tokens=SPECIAL, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False))
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|endoftext|>", eos_token="<|im_end|>", pad_token="<|endoftext|>")
    fast.chat_template = CHATML
    fast.save_pretrained(path)
    return len(fast)


def word_tokenizer(path: Path) -> None:
    """WordPiece as BERT has it, over letters."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    tokenizer = Tokenizer(models.WordPiece({name: id for id, name in enumerate(names)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.decoder = decoders.WordPiece()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]",
        mask_token="[MASK]").save_pretrained(path)


def write_tekken(path: Path, version: str, image: dict[str, int] | None = None) -> None:
    """tekken.json in the form of Mistral's published files."""
    source = json.loads(tekken.DATA.read_text("utf-8"))
    config = {**source["config"], "version": version, "default_vocab_size": tekken.SIZE,
              "default_num_special_tokens": tekken.SPECIAL}
    special = [{"rank": rank, "token_str": name, "is_control": True}
               for rank, name in enumerate(tekken.control_tokens(version))]
    vocabulary = [{"rank": rank, "token_bytes": base64.b64encode(word).decode(), "token_str": None}
                  for rank, word in enumerate(tekken.words())]
    written = {"config": config, "vocab": vocabulary, "special_tokens": special}
    if image is not None:
        written["multimodal" if version in ("v3", "v7") else "image"] = image
    (path / "tekken.json").write_text(json.dumps(written), "utf-8")


def save(model: Any, path: Path, seed: int = 1) -> None:
    """Random weights large enough that the next token depends on what was read; control tokens are seldom likely."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() > 1:
                scale = 1.0 if "embed" in name else 0.2
                weight.copy_(torch.randn(weight.shape, generator=generator) * scale)
                if "embed_tokens" in name:
                    weight[:tekken.SPECIAL if len(weight) == tekken.SIZE else len(SPECIAL)] *= 0.1
    model.save_pretrained(path)
