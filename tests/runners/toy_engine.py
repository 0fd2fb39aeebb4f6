"""A small real engine for tests of the process around it: it counts instead of computing.

The prompt of a completion is its orders: `count N SECONDS`, `die`, `flood N`, `refuse`, `break`, `deaf SECONDS`.
"""

from __future__ import annotations

import os
import threading
import time

from diptych.core.cards import Card
from diptych.core.errors import InvalidRequest, Unavailable
from diptych.core.events import Event, Finished, Progress, TokenDelta
from diptych.core.protocol import LoadRequest, RunRequest
from diptych.core.specs import CompletionSpec
from diptych.engines.base import Emit

ENGINE = "toy_engine:ToyEngine"


def card(path: str = "model") -> Card:
    return Card(id="toy", panel="text", family="toy", format="gguf", path=path, bytes=0)


def order(text: str, id: str = "run-1", timeout_seconds: float | None = None) -> RunRequest:
    return RunRequest(id=id, spec=CompletionSpec(prompt=text), timeout_seconds=timeout_seconds)


class ToyEngine:
    name = "toy"

    def __init__(self) -> None:
        print("noise on standard output")
        self._stops: dict[str, threading.Event] = {}

    def load(self, request: LoadRequest) -> None:
        if request.card.path == "broken":
            raise Unavailable("the file 'broken' is cut short")
        if request.card.path == "bug":
            raise ZeroDivisionError("a bug of the engine")
        if request.card.path == "crash":
            os._exit(7)
        time.sleep(float(request.options.get("load_seconds", 0)))

    def submit(self, request: RunRequest, emit: Emit) -> None:
        assert isinstance(request.spec, CompletionSpec)
        order, *values = request.spec.prompt.split()
        if order == "refuse":
            raise InvalidRequest("prompt is 'refuse', which is refused", param="prompt")
        if order == "break":
            raise ZeroDivisionError("a bug of the engine")
        stop = self._stops[request.id] = threading.Event()
        target = getattr(self, f"_{order}")
        threading.Thread(target=target, args=(stop, emit, *map(float, values)), daemon=True).start()

    def cancel(self, id: str) -> bool:
        stop = self._stops.get(id)
        if stop is not None:
            stop.set()
        return stop is not None

    def close(self) -> None:
        for stop in self._stops.values():
            stop.set()

    def _count(self, stop: threading.Event, emit: Emit, times: float, seconds: float) -> None:
        for step in range(int(times)):
            if stop.wait(seconds):
                emit(Finished(reason="cancelled"))
                return
            emit(Progress(step=step + 1, steps=int(times)))
        emit(Finished())

    def _flood(self, stop: threading.Event, emit: Emit, times: float) -> None:
        events: list[Event] = []
        for step in range(int(times)):
            events = [TokenDelta(text=f"{step} "), Progress(step=step + 1, steps=int(times))]
            for event in events:
                emit(event)
        emit(Finished())

    def _die(self, stop: threading.Event, emit: Emit) -> None:
        emit(TokenDelta(text="last words"))
        time.sleep(0.1)
        os.write(2, b"Traceback (most recent call last):\n  File x\nRuntimeError: out of cheese\n")
        os.kill(os.getpid(), 9)

    def _deaf(self, stop: threading.Event, emit: Emit, seconds: float) -> None:
        time.sleep(seconds)
        emit(Finished())
