"""How llama.cpp is set up: the options of a load, as its parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import xllamacpp

from diptych.core.cards import Card
from diptych.core.errors import InvalidRequest
from diptych.core.protocol import LoadRequest
from diptych.engines.text.options import vectors_only, whole

DEFAULT_SLOTS = 4
DEFAULT_CONTEXT = 8192
"""Tokens per request where neither the options nor the model say less: its memory is taken when the model loads."""
BATCH = 128
"""Prompt tokens read at a time. Between two batches the other requests get their tokens, and a cancel is heard."""
EMBED_CONTEXT = 2048
"""Most tokens of one input of a model that only makes vectors: they are read as one batch."""
CACHE_TYPES = ("f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl")
FLASH = {"auto": "AUTO", "on": "ENABLED", "off": "DISABLED"}
_ONLY_ERRORS = 1


@dataclass(frozen=True)
class TextOptions:
    """Options of a load, checked: requests at once, tokens each may take, prompt tokens per batch, type of the KV
    cache, flash attention (auto, on, off) and a chat template instead of the model's own."""

    slots: int
    context: int
    batch: int
    cache_type: str
    flash_attention: str
    chat_template: str | None


def read_options(request: LoadRequest) -> TextOptions:
    """The options of a load.

    Raises:
        InvalidRequest: an option is not what it has to be; names it.
    """
    card = request.card
    context = whole(request, "context", 0, 0, 16_777_216) or default_context(card)
    cache_type = _choice(request, "cache_type", "f16", CACHE_TYPES)
    flash = _choice(request, "flash_attention", "auto", tuple(FLASH))
    if flash == "off" and cache_type not in ("f32", "f16", "bf16"):
        raise InvalidRequest(
            f"option cache_type is {cache_type!r}, which needs flash attention, and flash_attention is 'off'",
            param="cache_type")
    template = request.options.get("chat_template")
    return TextOptions(
        slots=whole(request, "slots", DEFAULT_SLOTS, 1, 64), context=context,
        batch=context if vectors_only(card) else whole(request, "batch", BATCH, 1, 8192),
        cache_type=cache_type, flash_attention=flash, chat_template=str(template) if template else None)


def default_context(card: Card) -> int:
    """Tokens per request where the operator asks for nothing else."""
    most = EMBED_CONTEXT if vectors_only(card) else DEFAULT_CONTEXT
    return min(card.context or most, most)


def parameters(request: LoadRequest, options: TextOptions, key: str) -> Any:
    """`CommonParams` for this load; `key` is the API key of the listener that the package opens on its own."""
    card, params = request.card, xllamacpp.CommonParams()
    params.model.path = card.path
    params.n_parallel = options.slots
    params.n_ctx = options.slots * options.context  # llama.cpp divides it by the slots again
    params.kv_unified = False
    params.n_batch = params.n_ubatch = options.batch
    params.fit_params = False  # what fits is the arbiter's to decide
    params.cache_ram_mib = 0  # no second cache of up to 8 GB that no lease covers
    params.cache_idle_slots = False
    params.warmup = False
    params.verbosity = _ONLY_ERRORS
    for cpu in (params.cpuparams, params.cpuparams_batch):
        cpu.n_threads = request.threads
        cpu.poll = 0  # threads that spin while they wait slow the other panel many times over
    _set_cache(params, options)
    _set_prompt(params, options)
    _set_files(params, card)
    _set_listener(params, key, 2 + (options.slots if card.projector else 0))
    return params


def _set_cache(params: Any, options: TextOptions) -> None:
    kind = getattr(xllamacpp.ggml_type, f"GGML_TYPE_{options.cache_type.upper()}")
    params.cache_type_k = params.cache_type_v = kind
    params.flash_attn_type = getattr(
        xllamacpp.llama_flash_attn_type, f"LLAMA_FLASH_ATTN_TYPE_{FLASH[options.flash_attention]}")


def _set_prompt(params: Any, options: TextOptions) -> None:
    # Everything the model says is text, also what looks like reasoning or a tool call.
    params.reasoning_format = xllamacpp.common_reasoning_format.COMMON_REASONING_FORMAT_NONE
    params.force_pure_content_parser = True
    params.prefill_assistant = False  # after an assistant's message comes a new one, as with other chat servers
    if options.chat_template is not None:
        params.chat_template = options.chat_template


def _set_files(params: Any, card: Card) -> None:
    if card.projector is not None:
        params.mmproj.path = card.projector
    if card.adapters:
        found = []
        for file in card.adapters:
            adapter = xllamacpp.CommonAdapterLoraInfo()
            adapter.path, adapter.scale = file.path, 0.0
            found.append(adapter)
        params.lora_adapters = found
        params.lora_init_without_apply = True
    pooling = xllamacpp.llama_pooling_type
    params.embedding = True  # one server both continues text and makes vectors
    if card.tasks == ("rerank",):
        params.pooling_type = pooling.LLAMA_POOLING_TYPE_RANK
    elif not vectors_only(card):
        params.pooling_type = pooling.LLAMA_POOLING_TYPE_MEAN


def _set_listener(params: Any, key: str, threads: int) -> None:
    """The package always opens an HTTP listener: loopback, a free port, a key that nobody knows, and no page or slot
    listing. It is used for tokens and templates (`listener.py`)."""
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.api_keys = [key]
    params.n_threads_http = threads
    params.ui = False
    params.endpoint_slots = False


def _choice(request: LoadRequest, name: str, default: str, known: tuple[str, ...]) -> str:
    value = request.options.get(name, default)
    if value not in known:
        raise InvalidRequest(f"option {name} is {value!r}, not one of {', '.join(known)}", param=name)
    return str(value)
