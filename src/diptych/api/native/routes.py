"""`/api/routes`: names that stand for several models, and how these do."""

from __future__ import annotations

import asyncio
from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field

from diptych.api.services import Having, Services
from diptych.core.errors import NotFound
from diptych.core.routes import Fault, Route, RouteTarget, Strategy

router = APIRouter(prefix="/api/routes", tags=["routing"])


class TargetView(BaseModel):
    """A model of a route. `state`: ready; cooling, left alone for `cooling_seconds` more; half-open, the next request
    finds out whether it answers again; probing, one does; missing, there is no such model."""

    model: str
    weight: float
    first_token_seconds: float | None
    state: Literal["ready", "cooling", "half-open", "probing", "missing"]
    cooling_seconds: float
    busy: int = Field(description="answers that it works on now, for routes and others")
    latency_seconds: float | None = Field(description="average time to the first token, of late")
    failures: int = Field(description="in a row")
    outcomes: dict[str, int] = Field(description="of its attempts since the server started")
    last_fault: str | None = Field(description="what it said when it last failed")


class RouteView(BaseModel):
    name: str
    strategy: Strategy
    fallback_on: tuple[Fault, ...]
    cooldown_after: int
    cooldown_seconds: float
    same_vectors: bool
    targets: list[TargetView]


class RouteList(BaseModel):
    routes: list[RouteView]


@router.get("")
async def list_routes(services: Having) -> RouteList:
    """All routes, with the live state of their targets as this server knows it."""
    known = await _known(services)
    return RouteList(routes=[_view(services, name, route, known) for name, route in services.router.routes.items()])


@router.get("/{name:path}")
async def get_route(services: Having, name: str) -> RouteView:
    """One route, with the live state of its targets."""
    route = services.router.routes.get(name)
    if route is None:
        there = ", ".join(services.router.routes) or "none; the setting `routes` makes them"
        raise NotFound(f"no route {name[:200]!r}; there are: {there}", param="name", code="route_not_found")
    return _view(services, name, route, await _known(services))


async def _known(services: Services) -> set[str]:
    return {card.id for card in await asyncio.to_thread(services.library.cards)}


def _view(services: Services, name: str, route: Route, known: set[str]) -> RouteView:
    return RouteView(
        name=name, strategy=route.strategy, fallback_on=route.fallback_on, cooldown_after=route.cooldown_after,
        cooldown_seconds=route.cooldown_seconds, same_vectors=route.same_vectors,
        targets=[_target(services, target, target.model in known) for target in route.targets])


def _target(services: Services, target: RouteTarget, known: bool) -> TargetView:
    live, state, left, latency = services.router.state(target.model)
    return TargetView(
        model=target.model, weight=target.weight, first_token_seconds=target.first_token_seconds,
        state=state if known else "missing", cooling_seconds=round(left, 1), busy=live.busy,
        latency_seconds=None if latency is None else round(latency, 4), failures=live.health.failures,
        outcomes=dict(live.counts), last_fault=None if live.last is None else live.last.message)
