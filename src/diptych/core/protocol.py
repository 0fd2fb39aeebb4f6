"""The one protocol between the gateway and every runner (HTTP on 127.0.0.1, bearer token per process).

`GET /health` → `Health`; `POST /load` (`LoadRequest`) gives a warm spare its model; `POST /run` (`RunRequest`) answers
a stream of newline-delimited JSON events; `POST /cancel/{id}`; `POST /threads` (`ThreadsRequest`); `POST /shutdown`.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from diptych.core.cards import Card
from diptych.core.specs import AnySpec

RunnerState = Literal["importing", "spare", "loading", "ready", "failed", "stopping"]


class Health(BaseModel):
    """`bytes_resident` and `bytes_peak` are the process's measured memory; `running` counts accepted requests;
    `threads` is what it computes with, where it can tell. `passes`: bytes that each kind of pass took at most beyond
    the loaded model, by "WIDTHxHEIGHTxPICTURES" or "WIDTHxHEIGHT decode"."""

    model_config = ConfigDict(frozen=True)

    state: RunnerState
    engine: str
    model: str | None = None
    running: int = 0
    bytes_resident: int = 0
    bytes_peak: int = 0
    threads: int | None = None
    passes: dict[str, int] = {}
    detail: str | None = None


class LoadRequest(BaseModel):
    """`threads` for this runner's compute; `options` are engine options (context length, slots …)."""

    model_config = ConfigDict(frozen=True)

    card: Card
    threads: int = Field(ge=1)
    options: dict[str, float | int | str | bool] = {}


class ThreadsRequest(BaseModel):
    """Threads to compute with from the next step on."""

    model_config = ConfigDict(frozen=True)

    threads: int = Field(ge=1, le=4096)


class RunRequest(BaseModel):
    """`output_dir` is the absolute folder for the job's artifacts. `skip` lists the picture indices already made by
    an earlier attempt. `files`: absolute paths of what `ImageSpec.references` names, by `Reference.key`;
    `models`: the cards of those that are models, by id. `share`: who the run counts for; the pictures of one step are
    divided evenly between shares, then between the runs of each."""

    model_config = ConfigDict(frozen=True)

    id: str
    spec: AnySpec
    output_dir: str | None = None
    skip: tuple[int, ...] = ()
    timeout_seconds: float | None = None
    share: str = ""
    files: dict[str, str] = {}
    models: dict[str, Card] = {}
