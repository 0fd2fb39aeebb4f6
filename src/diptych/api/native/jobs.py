"""`/api/jobs` and `/api/artifacts`: durable work and what it made."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncGenerator
from typing import Annotated, Literal

from fastapi import APIRouter, Query, WebSocket
from starlette.responses import FileResponse, Response
from starlette.websockets import WebSocketDisconnect

from diptych.api.auth import Principal
from diptych.api.body import json_body
from diptych.api.docs import body_of
from diptych.api.native.artifact_files import ARTIFACT_ID, artifact_path
from diptych.api.native.convert import artifact_view, event_view, image_spec, job_view
from diptych.api.native.inputs import values_of
from diptych.api.native.schema import ArtifactList, JobList, JobRequest, JobView
from diptych.api.services import Caller, Having, Services, Who, principal_of, services_of
from diptych.api.streams import EventStream, sse
from diptych.core.errors import DiptychError, Forbidden, NotFound, Unavailable
from diptych.core.events import Event, Failed, Finished
from diptych.core.jobs import Job, JobState, Priority

router = APIRouter(prefix="/api", tags=["jobs"])

_JOB_ID = re.compile(r"[0-9a-f]{32}")
StateName = Literal["queued", "running", "succeeded", "failed", "cancelled"]


@router.post("/jobs", status_code=201, openapi_extra=body_of(JobRequest))
async def submit(
    services: Having, caller: Caller, who: Who, response: Response,
    body: Annotated[JobRequest, json_body(JobRequest, pictures=True)],
) -> JobView:
    """Accept a job. It is on disk when this answers, and survives the end of the server. Pictures that it names are
    stored first, see POST /api/inputs."""
    values = await values_of(services, who, body)
    priority = Priority(values.pop("priority"))
    job = await services.dispatcher.submit(image_spec(values), caller=caller, priority=priority)
    response.headers["location"] = f"/api/jobs/{job.id}"
    return job_view(job)


@router.get("/jobs")
async def list_jobs(
    services: Having,
    who: Who,
    state: Annotated[StateName | None, Query(description="only these")] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    before: Annotated[str | None, Query(description="`next` of the page before this one")] = None,
    caller: Annotated[str | None, Query(max_length=100, description="only jobs of this caller")] = None,
) -> JobList:
    """The newest jobs first; without the scope admin only those of the key."""
    if not who.all_jobs:
        if caller is not None and not who.sees(caller):
            raise Forbidden(f"caller is {caller!a}; the key {who.caller!r} may look at its own jobs only",
                            param="caller")
        caller = who.caller
    if before is not None:
        before = (await job_of(services, who, before)).id
    jobs = await asyncio.to_thread(
        services.store.list, state=JobState(state) if state else None, limit=limit, before=before, caller=caller)
    return JobList(jobs=[job_view(job) for job in jobs], next=jobs[-1].id if len(jobs) == limit else None)


@router.get("/jobs/{id}")
async def get_job(services: Having, who: Who, id: str) -> JobView:
    """One job; a queued one with its position and, once speeds are measured, the seconds until it will be done."""
    job = await job_of(services, who, id)
    if job.state is JobState.QUEUED:
        place = await services.dispatcher.place(id)
        if place is not None:
            return job_view(job, place.position, place.eta_seconds)
    return job_view(job)


@router.post("/jobs/{id}/cancel")
async def cancel(services: Having, who: Who, id: str) -> JobView:
    """Cancel a job that waits at once, one that runs at its next step. Finished pictures stay."""
    await job_of(services, who, id)
    return job_view(await services.dispatcher.cancel(id))


@router.delete("/jobs/{id}")
async def cancel_by_delete(services: Having, who: Who, id: str) -> JobView:
    """The same as `POST …/cancel`: the record stays."""
    return await cancel(services, who, id)


@router.get("/jobs/{id}/events", response_class=EventStream)
async def events(services: Having, who: Who, id: str) -> Response:
    """Server-sent events: where the job stands now, then all that happens until it has ended.

    `queued`, `started`, `progress`, `preview`, `artifact`, `metrics`, and one of `finished` and `failed` at the end;
    `error` where the server ends before the job does.
    """
    await job_of(services, who, id)

    async def source() -> AsyncGenerator[str, None]:
        last: Event | None = None
        async with contextlib.aclosing(services.dispatcher.events(id)) as stream:
            async for last in stream:
                values = event_view(id, last)
                yield sse(values, event=values["type"])
        if not isinstance(last, (Finished, Failed)):
            yield sse({"type": "error", **server_ends().body()}, event="error")

    return EventStream(source())


@router.websocket("/jobs/{id}/events/ws")
async def events_over_websocket(socket: WebSocket, id: str) -> None:
    """The same events, each a text message of JSON. Closes with 1000 after the last; 4404: no such job; 1012: the
    server ends."""
    services, who = services_of(socket), principal_of(socket)
    await socket.accept()
    try:
        await job_of(services, who, id)
    except DiptychError as error:
        await socket.send_json(error.body())
        await socket.close(4404 if isinstance(error, NotFound) else 1011, error.message[:100])
        return
    sending = asyncio.ensure_future(_send(socket, services, id))
    hearing = asyncio.ensure_future(_hear(socket))
    try:
        await asyncio.wait([sending, hearing], return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (sending, hearing):
            task.cancel()
        await asyncio.gather(sending, hearing, return_exceptions=True)


async def _send(socket: WebSocket, services: Services, id: str) -> None:
    with contextlib.suppress(WebSocketDisconnect):
        last: Event | None = None
        async with contextlib.aclosing(services.dispatcher.events(id)) as stream:
            async for last in stream:
                await socket.send_json(event_view(id, last))
        if isinstance(last, (Finished, Failed)):
            await socket.close(1000)
            return
        await socket.send_json({"type": "error", **server_ends().body()})
        await socket.close(1012)


def server_ends() -> DiptychError:
    """What those are told who follow a job when the server ends before it."""
    return Unavailable("the server ends; the job goes on when it starts again", code="server_ending")


async def _hear(socket: WebSocket) -> None:
    """Until the client closes; what it says is not listened to."""
    while (await socket.receive())["type"] != "websocket.disconnect":
        pass


@router.get("/jobs/{id}/artifacts")
async def artifacts(services: Having, who: Who, id: str) -> ArtifactList:
    """The files the job has made so far."""
    return ArtifactList(artifacts=[artifact_view(item) for item in (await job_of(services, who, id)).artifacts])


@router.get("/artifacts/{id}", response_class=FileResponse)
async def artifact_file(services: Having, who: Who, id: str) -> Response:
    """The file itself. Its PNG text says how it was made."""
    if not ARTIFACT_ID.fullmatch(id):
        raise NotFound(f"there is no artifact {id[:100]!a}", param="id")
    artifact = await asyncio.to_thread(services.store.artifact, id)
    if not who.all_jobs and not who.sees((await asyncio.to_thread(services.store.get, artifact.job_id)).caller):
        raise NotFound(f"there is no artifact {id!r}", param="id")
    path = await asyncio.to_thread(artifact_path, services.settings.artifacts_dir, artifact)
    headers = {"cache-control": "private, max-age=31536000, immutable", "x-content-type-options": "nosniff"}
    return FileResponse(path, media_type=artifact.media_type, filename=f"{artifact.id}{path.suffix}", headers=headers,
                        content_disposition_type="inline")


async def job_of(services: Services, who: Principal, id: str) -> Job:
    """Raises NotFound, also for what can be no id, and for the job of another caller."""
    told = NotFound(f"there is no job {id[:100]!a}", param="id")
    if not _JOB_ID.fullmatch(id):
        raise told
    job = await asyncio.to_thread(services.store.get, id)
    if not who.sees(job.caller):
        raise told
    return job

