"""What a request asks of the form of its answer, made ready for an engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from diptych.core.cards import Card
from diptych.core.errors import InvalidRequest
from diptych.core.events import Event
from diptych.core.specs import ChatSpec, CompletionSpec


class Reader(Protocol):
    """Turns the events of one run into those that a client is told; gives back what it holds when `Finished` comes."""

    def read(self, event: Event) -> list[Event]: ...


class _Plain:
    def read(self, event: Event) -> list[Event]:
        return [event]


@dataclass(frozen=True)
class Prepared:
    spec: ChatSpec | CompletionSpec

    def reader(self) -> Reader:
        return _Plain()


def prepare(spec: ChatSpec | CompletionSpec, card: Card) -> Prepared:
    """Raises InvalidRequest for a form that cannot be held."""
    if spec.format is not None:
        raise InvalidRequest("response_format: this form is not supported yet", param="response_format",
                             code="not_supported")
    if isinstance(spec, ChatSpec) and spec.tools and spec.tool_choice != "none":
        raise InvalidRequest("tools: calls are not supported yet", param="tools", code="not_supported")
    return Prepared(spec)
