"""The pictures of a job as OpenAI's clients wait for them: all at the end, by address or as base64, or as events."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import time
from collections import Counter
from collections.abc import AsyncGenerator
from typing import Any, Literal

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from diptych.api.errors import failure
from diptych.api.native.artifact_files import artifact_path
from diptych.api.native.convert import artifact_url
from diptych.api.openai.convert import IMAGE_NAMES
from diptych.api.openai.schema import ImageRequest
from diptych.api.services import Services
from diptych.api.streams import EventStream, attended, sse
from diptych.core.errors import Conflict, DiptychError, NotFound, Unavailable
from diptych.core.events import ArtifactReady, Failed, Finished, Preview
from diptych.core.jobs import Artifact, Job
from diptych.core.specs import ImageSpec

Event = Literal["image_generation", "image_edit"]


async def answered(
    request: Request, services: Services, caller: str, body: ImageRequest, spec: ImageSpec,
    event: Event = "image_generation", names: dict[str, str] = IMAGE_NAMES,
) -> Response:
    """Make the pictures of `spec` and answer as `body` asks. The job is cancelled when its client goes; finished
    pictures stay in the gallery.

    Args:
        event: how the names of OpenAI's events begin.
        names: what the client calls a field of the spec, where that differs.
    """
    try:
        job = await services.dispatcher.submit(spec, caller=caller)
    except DiptychError as error:
        error.param = names.get(error.param or "", error.param)
        raise
    pictures = _Pictures(services, job, event)
    if body.stream:
        return EventStream(pictures.stream(body.partial_images or 0))
    try:
        done = await attended(request, pictures.whole())
    except DiptychError as error:
        error.param = names.get(error.param or "", error.param)
        raise
    as_url = body.response_format != "b64_json"
    data = [await pictures.item(artifact, str(request.base_url) if as_url else None) for artifact in done]
    look = pictures.look(done[0] if done else None)
    return JSONResponse({"created": int(job.created_at.timestamp()), **look, "data": data})


class _Pictures:
    """The pictures of a job, for a client that waits for them."""

    def __init__(self, services: Services, job: Job, event: Event) -> None:
        self._services, self._job, self._name = services, job, event

    def look(self, artifact: Artifact | None) -> dict[str, str]:
        """What OpenAI tells of a picture; its size is known at its end, or from the request."""
        width, height = self._job.spec.width, self._job.spec.height
        if artifact is not None:
            width, height = artifact.width, artifact.height
        size = f"{width}x{height}" if width and height else "auto"
        return {"background": "opaque", "output_format": "png", "quality": "auto", "size": size}

    async def whole(self) -> list[Artifact]:
        """All artifacts, once they are there. Raises DiptychError when the job fails or is cancelled."""
        async with self._cancelled_with_me(), contextlib.aclosing(
                self._services.dispatcher.events(self._job.id)) as events:
            async for event in events:
                if isinstance(event, (Finished, Failed)):
                    _require(event)
                    done = await asyncio.to_thread(self._services.store.get, self._job.id)
                    return list(done.artifacts)
        raise _stopped()

    async def stream(self, partial_images: int) -> AsyncGenerator[str, None]:
        """OpenAI's events: partial images as they come, each picture when it is done."""
        sent: Counter[int] = Counter()
        try:
            async with self._cancelled_with_me(), contextlib.aclosing(
                    self._services.dispatcher.events(self._job.id)) as events:
                async for event in events:
                    if isinstance(event, Preview) and sent[event.index] < partial_images:
                        yield self._event("partial_image", event.png, None, partial_image_index=sent[event.index])
                        sent[event.index] += 1
                    elif isinstance(event, ArtifactReady):
                        artifact = await asyncio.to_thread(
                            self._services.store.artifact, f"{self._job.id}-{event.index}")
                        yield self._event(
                            "completed", await self._base64(artifact), artifact, usage=_NO_USAGE,
                            seed=artifact.seed)
                    elif isinstance(event, (Finished, Failed)):
                        _require(event)
                        return
            raise _stopped()
        except DiptychError as error:
            yield sse({"type": "error", **error.body()}, event="error")

    async def item(self, artifact: Artifact, base_url: str | None) -> dict[str, Any]:
        """An element of `data`: with the picture itself, or its address below `base_url`."""
        if base_url is not None:
            address = artifact_url(artifact.id)
            if self._services.keys.required:  # clients fetch it as it stands, without a key
                address = self._services.links.signed(address)
            return {"url": base_url.rstrip("/") + address, "seed": artifact.seed}
        return {"b64_json": await self._base64(artifact), "seed": artifact.seed}

    def _event(self, kind: str, picture: str, artifact: Artifact | None, **more: Any) -> str:
        name = f"{self._name}.{kind}"
        values = {"type": name, "b64_json": picture, "created_at": int(time.time()), **self.look(artifact), **more}
        return sse(values, event=name)

    async def _base64(self, artifact: Artifact) -> str:
        folder = self._services.settings.artifacts_dir
        raw = await asyncio.to_thread(lambda: artifact_path(folder, artifact).read_bytes())
        return base64.b64encode(raw).decode("ascii")

    @contextlib.asynccontextmanager
    async def _cancelled_with_me(self) -> AsyncGenerator[None, None]:
        """Cancels the job when the client does not wait for its end."""
        try:
            yield
        except (asyncio.CancelledError, GeneratorExit):
            with contextlib.suppress(Conflict, NotFound, Unavailable):
                await asyncio.shield(self._services.dispatcher.cancel(self._job.id))
            raise


_NO_USAGE = {
    "input_tokens": 0, "input_tokens_details": {"image_tokens": 0, "text_tokens": 0}, "output_tokens": 0,
    "total_tokens": 0}


def _require(event: Finished | Failed) -> None:
    if isinstance(event, Failed):
        raise failure(event)
    if event.reason == "cancelled":
        raise Conflict("the job was cancelled", code="cancelled")


def _stopped() -> DiptychError:
    return Unavailable("the server ends; the job goes on when it starts again")
