"""Language models in GGUF, on llama.cpp (the package xllamacpp)."""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import xllamacpp

from diptych.core.cards import Card
from diptych.core.errors import Conflict, InvalidRequest, Unavailable
from diptych.core.events import Failed
from diptych.core.logs import run_fields
from diptych.core.protocol import LoadRequest, RunRequest
from diptych.core.specs import ChatSpec, CompletionSpec
from diptych.engines.base import Emit
from diptych.engines.text.answer import Answer
from diptych.engines.text.payload import chat_payload, completion_payload, merge_turns

DEFAULT_SLOTS = 4
DEFAULT_CONTEXT = 8192
"""Tokens per request where neither the options nor the model say less: its memory is taken when the model loads."""
BATCH = 128
"""Prompt tokens read at a time. Between two batches the other requests get their tokens, and a cancel is heard."""
_ONLY_ERRORS = 1

log = logging.getLogger("diptych.text")


class LlamaCppEngine:
    """One GGUF model. Answers `slots` requests at once; further ones wait.

    Options of `load`: `slots` (requests at once), `context` (tokens per request, 0: the model's own, at most 8192),
    `chat_template` (Jinja; instead of the model's own).
    """

    name = "llamacpp"

    def __init__(self) -> None:
        self._server: Any = None
        self._lock = threading.Lock()
        self._runs: dict[str, tuple[Answer, Future[None]]] = {}
        self._pool: ThreadPoolExecutor | None = None

    def load(self, request: LoadRequest) -> None:
        slots, context = read_options(request)
        params = _parameters(request, slots, context)
        try:
            self._server = xllamacpp.Server(params)
        except RuntimeError as error:
            raise InvalidRequest(
                f"llama.cpp cannot load {Path(request.card.path).name!r}: the file is damaged, or of an architecture "
                "or with options that it does not know; the runner's log says more", param="model") from error
        # A first token now: errors show here and not at the first user, and llama.cpp hangs when it is freed before
        # it has ever answered.
        self._server.handle_completions({"prompt": "a", "max_tokens": 1}, lambda chunk: False)
        self._pool = ThreadPoolExecutor(slots, thread_name_prefix="answer")
        log.info("context %d tokens for each of %d requests at once, %d threads", context, slots, request.threads)

    def submit(self, request: RunRequest, emit: Emit) -> None:
        work, answer = self._plan(request, emit)
        with self._lock:
            if self._pool is None:
                raise Unavailable("no model is loaded")
            if request.id in self._runs:
                raise Conflict(f"run {request.id!r} is already running here", param="id")
            self._runs[request.id] = answer, self._pool.submit(self._work, request.id, answer, work)

    def cancel(self, id: str) -> bool:
        with self._lock:
            if id not in self._runs:
                return False
            answer, future = self._runs[id]
            answer.cancelled = True
            if not future.cancel():
                return True
            del self._runs[id]
        answer.finish()  # it had not begun
        return True

    def close(self) -> None:
        with self._lock:
            pool, self._pool = self._pool, None
            ids = list(self._runs)
        for id in ids:
            self.cancel(id)
        if pool is not None:
            pool.shutdown(wait=True)
        self._server = None

    def _plan(self, request: RunRequest, emit: Emit) -> tuple[Callable[[], None], Answer]:
        spec = request.spec
        if isinstance(spec, ChatSpec):
            answer = Answer(emit, "messages")
            return lambda: self._chat(chat_payload(spec), answer), answer
        if isinstance(spec, CompletionSpec):
            answer = Answer(emit, "prompt")
            return lambda: self._server.handle_completions(completion_payload(spec), answer.take), answer
        raise InvalidRequest(f"this runner answers with text, it does not take a spec of kind {spec.kind!r}",
                             param="kind")

    def _work(self, id: str, answer: Answer, work: Callable[[], None]) -> None:
        failed: Failed | None = None
        try:
            if not answer.cancelled:
                work()
        except (RuntimeError, ValueError) as error:
            failed = _refusal(error)
        except Exception as error:
            log.exception("run %s", id, extra=run_fields(id))
            failed = Failed(message=f"the text engine failed: {type(error).__name__}", code="engine_failed")
        with self._lock:
            self._runs.pop(id, None)
        if failed is not None:
            answer.fail(failed)
        else:
            answer.finish()

    def _chat(self, payload: dict[str, Any], answer: Answer) -> None:
        """Many templates demand that user and assistant take turns. Clients that send two user messages in a row are
        common, and mean one message in two parts; where the template refuses, it gets that."""
        try:
            self._server.handle_chat_completions(payload, answer.take)
        except RuntimeError as error:
            merged = merge_turns(payload["messages"])
            if "Jinja" not in str(error) or answer.begun or merged == payload["messages"]:
                raise
            self._server.handle_chat_completions({**payload, "messages": merged}, answer.take)


def read_options(request: LoadRequest) -> tuple[int, int]:
    """`(slots, context)`: requests at once, and tokens that each may take.

    Raises:
        InvalidRequest: an option is no whole number, or out of range.
    """
    slots = _whole(request, "slots", DEFAULT_SLOTS, 1, 64)
    context = _whole(request, "context", 0, 0, 16_777_216)
    return slots, context or default_context(request.card)


def default_context(card: Card) -> int:
    """Tokens per request where the operator asks for nothing else."""
    return min(card.context or DEFAULT_CONTEXT, DEFAULT_CONTEXT)


def _whole(request: LoadRequest, name: str, default: int, least: int, most: int) -> int:
    value = request.options.get(name, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= most or value % 1:
        raise InvalidRequest(f"option {name} is {value!r}, not a whole number from {least} to {most}", param=name)
    return int(value)


def _parameters(request: LoadRequest, slots: int, context: int) -> Any:
    params = xllamacpp.CommonParams()
    params.model.path = request.card.path
    params.n_parallel = slots
    params.n_ctx = slots * context  # llama.cpp divides it by the slots again
    params.kv_unified = False
    params.n_batch = params.n_ubatch = BATCH
    params.fit_params = False  # what fits is the arbiter's to decide
    params.cache_ram_mib = 0  # no second cache of up to 8 GB that no lease covers
    params.cache_idle_slots = False
    params.warmup = False
    params.verbosity = _ONLY_ERRORS
    for cpu in (params.cpuparams, params.cpuparams_batch):
        cpu.n_threads = request.threads
        cpu.poll = 0  # threads that spin while they wait slow the other panel many times over
    # Everything the model says is text, also what looks like reasoning or a tool call.
    params.reasoning_format = xllamacpp.common_reasoning_format.COMMON_REASONING_FORMAT_NONE
    params.force_pure_content_parser = True
    params.prefill_assistant = False  # after an assistant's message comes a new one, as with other chat servers
    if template := request.options.get("chat_template"):
        params.chat_template = str(template)
    # The package always opens an HTTP listener of its own. We do not use it: loopback, a free port, a key that nobody
    # knows, and no page or slot listing.
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.api_keys = [secrets.token_urlsafe(32)]
    params.n_threads_http = 1
    params.ui = False
    params.endpoint_slots = False
    return params


def _refusal(error: Exception) -> Failed:
    """An exception of llama.cpp before it began: the template refused the messages, or the text is not valid."""
    text = str(error)
    _, found, reason = text.partition("Jinja Exception:")
    if found:
        message = f"the model's chat template refuses these messages: {reason.strip()[:300]}"
        return Failed(message=message, status=400, param="messages", code="invalid_value")
    first = next((line for line in text.splitlines() if line.strip()), type(error).__name__)
    return Failed(message=f"llama.cpp refuses the request: {first.strip()[:300]}", status=400, code="invalid_value")
