"""One loaded model folder, and what is known of it."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError

from diptych.core.cards import Card
from diptych.core.errors import InvalidRequest
from diptych.core.protocol import LoadRequest
from diptych.engines.text.grammars import Grammars
from diptych.engines.text.options import vectors_only, whole
from diptych.engines.text.vocabulary import Vocabulary
from diptych.engines.transformers.lora import Adapters
from diptych.engines.transformers.mistral import TekkenPrompts
from diptych.engines.transformers.tokens import FastTokens, TekkenTokens

DEFAULT_SLOTS, DEFAULT_CONTEXT, BATCH = 4, 8192, 128
TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_TURN_ENDS = ("<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<end_of_turn>", "<|end|>")
"""Control tokens that end an answer, also where the model's files name only the one that ends a text."""
WITH_PICTURES = {"mistral3"}
"""Types of models whose class is not one of language models alone."""
log = logging.getLogger("diptych.text")


@dataclass(frozen=True)
class HfOptions:
    """Options of a load, checked: requests at once, tokens each may take, prompt tokens read at a time, and a chat
    template instead of the model's own."""

    slots: int
    context: int
    batch: int
    chat_template: str | None


@dataclass(frozen=True)
class Loaded:
    """`model` computes, of class `kind`; `ends` are the ids that end an answer; `mistral` makes the prompts of models
    with a tekken.json, and is None for others. `size` is the length of the logits."""

    card: Card
    options: HfOptions
    model: Any
    listener: FastTokens | TekkenTokens
    vocabulary: Vocabulary
    grammars: Grammars
    adapters: Adapters
    mistral: TekkenPrompts | None
    template: str
    ends: frozenset[int]
    size: int
    marker: str = ""

    @property
    def folder(self) -> Path:
        return Path(self.card.path)


def load(request: LoadRequest) -> Loaded:
    """Load the model of `request` from its folder alone: no network, no code from the folder, no pickled weights.

    Raises:
        InvalidRequest: an option is wrong, or transformers cannot load the folder; says why.
    """
    card, folder = request.card, Path(request.card.path)
    context = whole(request, "context", 0, 0, 16_777_216) or min(card.context or DEFAULT_CONTEXT, DEFAULT_CONTEXT)
    given = request.options.get("chat_template")
    options = HfOptions(
        slots=whole(request, "slots", DEFAULT_SLOTS, 1, 64), context=min(context, card.context or context),
        batch=whole(request, "batch", BATCH, 1, 8192), chat_template=str(given) if given else None)
    torch.set_num_threads(request.threads)
    model = load_model(folder, card, str(request.options.get("dtype", "auto")))
    mistral = TekkenPrompts(folder / "tekken.json") if (
        card.tokenizer is not None and options.chat_template is None) else None
    listener = TekkenTokens(mistral.tekken) if mistral else FastTokens(folder, options.chat_template)
    size = int(model.get_input_embeddings().weight.shape[0])
    vocabulary = listener.vocabulary(size)
    return Loaded(
        card=card, options=options, model=model, listener=listener, vocabulary=vocabulary,
        grammars=Grammars(vocabulary), adapters=Adapters(model, card.adapters), mistral=mistral,
        template=listener.template, ends=_ends(model, vocabulary), size=size)


def load_model(folder: Path, card: Card, dtype: str) -> Any:
    """The model in evaluation mode on the best device. Raises InvalidRequest."""
    if dtype not in ("auto", *TYPES):
        raise InvalidRequest(f"option dtype is {dtype!r}, not one of auto, {', '.join(TYPES)}", param="dtype")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    transformers.utils.logging.disable_progress_bar()
    try:
        model, found = _class(card).from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, use_safetensors=True, output_loading_info=True,
            dtype=TYPES.get(dtype, "auto"), attn_implementation="sdpa")
    except (OSError, ValueError, KeyError, ImportError, AttributeError, RuntimeError, TypeError, SafetensorError,
            json.JSONDecodeError) as error:
        line = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise InvalidRequest(f"transformers cannot load {folder.name!r}: {line[:300]}", param="model") from error
    missing = sorted(found.get("missing_keys") or ())
    if missing:  # transformers would fill them with random numbers
        raise InvalidRequest(f"{folder.name!r} lacks {len(missing)} of the model's weights, e.g. {missing[0]!r}",
                             param="model", code="model_damaged")
    if device == "cpu" and dtype == "auto" and model.dtype == torch.float16:
        model = model.float()  # half precision of this kind is slow on a CPU
    return model.eval().to(device)


def _class(card: Card) -> Any:
    if card.architecture in WITH_PICTURES:
        return transformers.AutoModelForImageTextToText
    if not vectors_only(card):
        return transformers.AutoModelForCausalLM
    return transformers.AutoModelForSequenceClassification if "rerank" in card.tasks else transformers.AutoModel


def _ends(model: Any, vocabulary: Vocabulary) -> frozenset[int]:
    named = [vocabulary.eos, *(vocabulary.ids.get(name) for name in _TURN_ENDS)]
    for config in (getattr(model, "generation_config", None), model.config):
        ends = getattr(config, "eos_token_id", None)
        named += ends if isinstance(ends, list) else [ends]
    return frozenset(id for id in named if id is not None and 0 <= id < len(vocabulary))
