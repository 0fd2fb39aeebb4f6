"""`/metrics` and `/ready`."""

from __future__ import annotations

from fastapi import APIRouter
from prometheus_client.exposition import choose_encoder
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from diptych.api.services import Having
from diptych.core.errors import Unavailable

router = APIRouter(tags=["system"])


@router.get("/metrics", response_class=Response)
async def metrics(request: Request, services: Having) -> Response:
    """Prometheus metrics, as text or, where the client asks for it, as OpenMetrics."""
    observer = services.observer
    found = await observer.snapshots.take(services, observer.lifecycle.draining)
    encode, content_type = choose_encoder(request.headers.get("accept", ""))
    return Response(encode(found), headers={"content-type": content_type, "cache-control": "no-store"})


@router.get("/ready", response_class=JSONResponse)
async def ready(services: Having) -> Response:
    """Whether work can be taken now: 200, or 503 with the checks that failed. `/health` says that the process lives."""
    checks = await services.observer.readiness.checks()
    wrong = {name: told for name, told in checks.items() if told != "ok"}
    body = {"status": "unavailable" if wrong else "ready", "checks": checks}
    headers = {"cache-control": "no-store"}
    if not wrong:
        return JSONResponse(body, 200, headers)
    text = "; ".join(f"{name}: {told}" for name, told in wrong.items())
    fault = Unavailable(f"the server is not ready: {text}", code="not_ready").body()
    return JSONResponse({**body, **fault}, 503, headers)
