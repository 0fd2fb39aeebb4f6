"""Python functions that an operator gives to agents."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from pydantic import Field


def weather(city: Annotated[str, Field(description="name of the city", max_length=30)]) -> dict[str, Any]:
    """The weather in a city now."""
    return {"city": city, "degrees": 21}


async def later(seconds: float) -> str:
    """Answer after some time."""
    await asyncio.sleep(seconds)
    return "now"


def broken(number: int) -> str:
    """Always fails."""
    raise RuntimeError(f"number {number} is out of order")


def long() -> str:
    """A long text."""
    return "ä" * 50_000
