"""Language models in GGUF, on llama.cpp (the package xllamacpp)."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from diptych.core.errors import Conflict, DiptychError, InvalidRequest, Unavailable
from diptych.core.events import Failed
from diptych.core.protocol import LoadRequest, RunRequest
from diptych.core.specs import ChatSpec, CompletionSpec, EmbedSpec, RerankSpec, ScoreSpec
from diptych.engines.base import Emit
from diptych.engines.text.answer import Answer, failure
from diptych.engines.text.generation import Generation
from diptych.engines.text.loaded import Loaded, load
from diptych.engines.text.measures import Measures, Refused
from diptych.engines.text.options import vectors_only

Work = Callable[[], None]
log = logging.getLogger("diptych.text")


class LlamaCppEngine:
    """One GGUF model. Answers `slots` requests at once; further ones wait.

    Options of `load`: `slots` (requests at once), `context` (tokens per request, 0: the model's own, at most 8192),
    `batch` (prompt tokens read at a time), `cache_type` (of the KV cache: f16, q8_0 …), `flash_attention` (auto, on,
    off), `chat_template` (Jinja; instead of the model's own).
    """

    name = "llamacpp"

    def __init__(self) -> None:
        self._loaded: Loaded | None = None
        self._lock = threading.Lock()
        self._runs: dict[str, tuple[Answer, Future[None]]] = {}
        self._pool: ThreadPoolExecutor | None = None

    def load(self, request: LoadRequest) -> None:
        self._loaded = loaded = load(request)
        self._generation, self._measures = Generation(loaded), Measures(loaded)
        self._pool = ThreadPoolExecutor(loaded.options.slots, thread_name_prefix="answer")
        log.info("context %d tokens for each of %d requests at once, %d threads",
                 loaded.options.context, loaded.options.slots, request.threads)

    def submit(self, request: RunRequest, emit: Emit) -> None:
        answer = self._answer(request, emit)
        with self._lock:
            if self._pool is None:
                raise Unavailable("no model is loaded")
            if request.id in self._runs:
                raise Conflict(f"run {request.id!r} is already running here", param="id")
            work = self._plan(request, answer)
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
        if self._loaded is not None:
            self._loaded.listener.close()
        self._loaded = None
        self.__dict__.pop("_generation", None)
        self.__dict__.pop("_measures", None)

    def _answer(self, request: RunRequest, emit: Emit) -> Answer:
        spec = request.spec
        if isinstance(spec, ChatSpec | CompletionSpec):
            param = "messages" if isinstance(spec, ChatSpec) else "prompt"
            return Answer(emit, param, spec.sampling.stop, spec.sampling.logprobs)
        if isinstance(spec, EmbedSpec | RerankSpec | ScoreSpec):
            return Answer(emit, {"embed": "input", "rerank": "documents", "score": "messages"}[spec.kind])
        raise InvalidRequest(f"this runner answers with text, it does not take a spec of kind {spec.kind!r}",
                             param="kind")

    def _plan(self, request: RunRequest, answer: Answer) -> Work:
        spec, loaded = request.spec, self._loaded
        assert loaded is not None
        if isinstance(spec, EmbedSpec):
            return lambda: self._measures.embed(spec, answer)
        if isinstance(spec, RerankSpec):
            return lambda: self._measures.rerank(spec, answer)
        if vectors_only(loaded.card):
            raise InvalidRequest(f"model {loaded.card.id!r} makes no text, only vectors or scores", param="model",
                                 code="unsupported_value")
        if isinstance(spec, ScoreSpec):
            return lambda: self._measures.score(spec, answer)
        if isinstance(spec, ChatSpec):
            return lambda: self._generation.chat(spec, answer)
        assert isinstance(spec, CompletionSpec)
        return lambda: self._generation.completion(spec, answer)

    def _work(self, id: str, answer: Answer, work: Work) -> None:
        failed: Failed | None = None
        try:
            if not answer.cancelled:
                work()
        except DiptychError as error:
            failed = failure(error)
        except Refused as error:
            failed = error.failed
        except (RuntimeError, ValueError) as error:
            failed = _refusal(error)
        except Exception as error:
            log.exception("run %s", id)
            failed = Failed(message=f"the text engine failed: {type(error).__name__}", code="engine_failed")
        with self._lock:
            self._runs.pop(id, None)
        if failed is not None:
            answer.fail(failed)
        else:
            answer.finish()


def _refusal(error: Exception) -> Failed:
    """An exception of llama.cpp before it began: it does not take a value."""
    first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return Failed(message=f"llama.cpp refuses the request: {first.strip()[:300]}", status=400, code="invalid_value")
