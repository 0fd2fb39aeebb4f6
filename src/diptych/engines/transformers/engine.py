"""Language models in safetensors folders, on transformers."""

from __future__ import annotations

import logging
import threading
from collections import deque
from typing import Any

from diptych.core.errors import Conflict, DiptychError, InvalidRequest, Unavailable
from diptych.core.events import Failed
from diptych.core.protocol import LoadRequest, RunRequest
from diptych.core.specs import ChatSpec, CompletionSpec, EmbedSpec, RerankSpec, ScoreSpec
from diptych.engines.base import Emit
from diptych.engines.text.answer import failure
from diptych.engines.text.options import vectors_only
from diptych.engines.transformers.answer import Answer
from diptych.engines.transformers.decode import Decoder, Work
from diptych.engines.transformers.loaded import Loaded, load
from diptych.engines.transformers.measures import Measures
from diptych.engines.transformers.states import States
from diptych.engines.transformers.steps import Step, Stepper

log = logging.getLogger("diptych.text")


class _Run:
    """One accepted request: `wants` is what its work has asked for and not yet been given."""

    def __init__(self, id: str, answer: Answer, work: Work) -> None:
        self.id, self.answer, self.work = id, answer, work
        self.wants: Any = None
        self.begun = False


class TransformersEngine:
    """One model folder. Up to `slots` requests are answered at once, each by one step in turn; those that add a token
    do so in one pass. Further requests wait.

    Options of `load`: `slots`, `context` (tokens per request, 0: the model's own, at most 8192), `batch` (prompt tokens
    read at a time), `dtype` (auto, float32, bfloat16, float16), `chat_template`.
    """

    name = "transformers"

    def __init__(self) -> None:
        self._loaded: Loaded | None = None
        self._changed = threading.Condition()
        self._runs: dict[str, _Run] = {}
        self._waiting: deque[_Run] = deque()
        self._closed = False
        self._thread: threading.Thread | None = None

    def load(self, request: LoadRequest) -> None:
        self._loaded = loaded = load(request)
        states = States(loaded.model, loaded.options.slots)
        self._decoder, self._measures = Decoder(loaded, states), Measures(loaded, states)
        self._stepper = Stepper(loaded.model, loaded.adapters)
        self._thread = threading.Thread(target=self._serve, name="answer", daemon=True)
        self._thread.start()
        log.info("context %d tokens for each of %d requests at once, %d threads",
                 loaded.options.context, loaded.options.slots, request.threads)

    def submit(self, request: RunRequest, emit: Emit) -> None:
        answer = _answer(request, emit)
        with self._changed:
            if self._loaded is None or self._closed:
                raise Unavailable("no model is loaded")
        run = _Run(request.id, answer, self._work(request, answer, self._loaded))
        with self._changed:
            if self._closed:
                raise Unavailable("no model is loaded")
            if request.id in self._runs:
                raise Conflict(f"run {request.id!r} is already running here", param="id")
            self._runs[request.id] = run
            self._waiting.append(run)
            self._changed.notify()

    def cancel(self, id: str) -> bool:
        with self._changed:
            run = self._runs.get(id)
            if run is None:
                return False
            run.answer.cancelled = True
            self._changed.notify()
            if run not in self._waiting:
                return True
            self._waiting.remove(run)  # it had not begun
            del self._runs[id]
        run.work.close()
        run.answer.finish()
        return True

    def close(self) -> None:
        with self._changed:
            self._closed = True
            for run in self._runs.values():
                run.answer.cancelled = True
            self._changed.notify()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
        self._loaded = None
        for name in ("_decoder", "_measures", "_stepper"):
            self.__dict__.pop(name, None)

    def _work(self, request: RunRequest, answer: Answer, loaded: Loaded) -> Work:
        spec = request.spec
        if isinstance(spec, EmbedSpec):
            return self._measures.embed(spec, answer)
        if isinstance(spec, RerankSpec):
            return self._measures.rerank(spec, answer)
        if vectors_only(loaded.card):
            raise InvalidRequest(f"model {loaded.card.id!r} makes no text, only vectors or scores", param="model",
                                 code="unsupported_value")
        if isinstance(spec, ScoreSpec):
            return self._measures.score(spec, answer)
        if isinstance(spec, ChatSpec):
            return self._decoder.chat(spec, answer)
        assert isinstance(spec, CompletionSpec)
        return self._decoder.completion(spec, answer)

    def _serve(self) -> None:
        """The thread that computes: every active run gets one step at a time."""
        active: list[_Run] = []
        while True:
            with self._changed:
                while not active and not self._waiting and not self._closed:
                    self._changed.wait()
                assert self._loaded is not None
                while self._waiting and len(active) < self._loaded.options.slots:
                    active.append(self._waiting.popleft())
                if not active and self._closed:
                    return
            active = [run for run in active if run.begun or self._advance(run, None)]
            active = [run for run in active if self._goes_on(run)]
            steps = [run for run in active if isinstance(run.wants, Step)]
            answers = dict(zip(steps, self._stepper.run([run.wants for run in steps]), strict=True))
            active = [run for run in active if self._advance(run, answers.get(run))]

    def _goes_on(self, run: _Run) -> bool:
        if not run.answer.cancelled:
            return True
        run.work.close()
        self._end(run, None)
        return False

    def _advance(self, run: _Run, answer: Any) -> bool:
        """Give a run what it has asked for; False when that was its end."""
        try:
            if run.begun and not isinstance(run.wants, Step):
                answer = run.wants()
            if isinstance(answer, Exception):
                run.wants = run.work.throw(answer)
            else:
                run.begun, run.wants = True, run.work.send(answer)
        except StopIteration:
            self._end(run, None)
        except DiptychError as error:
            self._end(run, failure(error))
        except Exception as error:
            log.exception("run %s", run.id)
            self._end(run, Failed(message=f"the text engine failed: {type(error).__name__}", code="engine_failed"))
        else:
            return True
        return False

    def _end(self, run: _Run, failed: Failed | None) -> None:
        with self._changed:
            self._runs.pop(run.id, None)
        if failed is not None:
            run.answer.fail(failed)
        else:
            run.answer.finish()


def _answer(request: RunRequest, emit: Emit) -> Answer:
    spec = request.spec
    if isinstance(spec, ChatSpec | CompletionSpec):
        return Answer(emit, "messages" if isinstance(spec, ChatSpec) else "prompt", spec.sampling.stop)
    if isinstance(spec, EmbedSpec | RerankSpec | ScoreSpec):
        return Answer(emit, {"embed": "input", "rerank": "documents", "score": "messages"}[spec.kind])
    raise InvalidRequest(f"this runner answers with text, it does not take a spec of kind {spec.kind!r}", param="kind")
