"""A small real engine: it writes files instead of pictures, and obeys its prompt.

Orders for pictures: `wait SECONDS` (per step), `die`, `die-once`, `hang`, `refuse`, `fail`, `lazy` (makes none).
Orders for text: `count N SECONDS`, `die`, `die-once FILE`. Models named `broken…`, `crash…` and `crash-once…` do so
when they are loaded.
"""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

from diptych.core.errors import InvalidRequest, Unavailable
from diptych.core.events import ArtifactReady, Failed, Finished, Metrics, Progress, TokenDelta
from diptych.core.protocol import LoadRequest, RunRequest
from diptych.core.specs import ImageSpec
from diptych.engines.base import Emit

ENGINE = "paint_engine:PaintEngine"


class PaintEngine:
    name = "paint"

    def __init__(self) -> None:
        self._stops: dict[str, threading.Event] = {}

    def load(self, request: LoadRequest) -> None:
        name, mark = request.card.id, Path(request.card.path).parent / f"{request.card.id}.crashed"
        if name.startswith("broken"):
            raise Unavailable("the file is cut short")
        if name.startswith("crash") and not (name.startswith("crash-once") and mark.exists()):
            mark.touch()
            os._exit(7)

    def submit(self, request: RunRequest, emit: Emit) -> None:
        if isinstance(request.spec, ImageSpec) and request.spec.prompt == "refuse":
            raise InvalidRequest("prompt is 'refuse', which is refused", param="prompt")
        stop = self._stops[request.id] = threading.Event()
        work = self._paint if isinstance(request.spec, ImageSpec) else self._talk
        threading.Thread(target=work, args=(request, stop, emit), daemon=True).start()

    def cancel(self, id: str) -> bool:
        stop = self._stops.get(id)
        if stop is not None:
            stop.set()
        return stop is not None

    def close(self) -> None:
        for stop in self._stops.values():
            stop.set()

    def _paint(self, request: RunRequest, stop: threading.Event, emit: Emit) -> None:
        spec, folder = request.spec, Path(request.output_dir or "")
        assert isinstance(spec, ImageSpec)
        order, *values = spec.prompt.split()
        folder.mkdir(parents=True, exist_ok=True)
        if order == "fail":
            emit(Failed(message="the paint is out", status=507, code="no_paint"))
            return
        began = time.monotonic()
        for index in [] if order == "lazy" else [n for n in range(spec.count) if n not in request.skip]:
            for step in range(spec.steps):
                if order == "hang":
                    time.sleep(1000)
                if stop.wait(float(values[0]) if order == "wait" else 0):
                    emit(Finished(reason="cancelled"))
                    return
                emit(Progress(step=index * spec.steps + step + 1, steps=spec.steps * spec.count))
            with (folder / "made.log").open("a") as log:
                log.write(f"{index} {os.getpid()}\n")
            file = folder / f"{index:03d}.png"
            file.write_bytes(b"picture")
            emit(ArtifactReady(index=index, path=str(file), seed=spec.seed + index, width=spec.width,
                               height=spec.height))
            if order == "die" or (order == "die-once" and not (folder / "died").exists()):
                (folder / "died").touch()
                time.sleep(0.2)  # the event is on its way
                os.kill(os.getpid(), 9)
        emit(Metrics(values={"seconds": time.monotonic() - began, "steps_per_second": 100.0}))
        emit(Finished())

    def _talk(self, request: RunRequest, stop: threading.Event, emit: Emit) -> None:
        order, *values = request.spec.prompt.split()  # type: ignore[union-attr]
        if order == "die" or (order == "die-once" and not Path(values[0]).exists()):
            if order == "die-once":
                Path(values[0]).touch()
            os.kill(os.getpid(), 9)
        for number in range(int(values[0]) if order == "count" else 1):
            if stop.wait(float(values[1]) if order == "count" else 0):
                emit(Finished(reason="cancelled"))
                return
            emit(TokenDelta(text=f"{number} "))
        emit(Finished())
