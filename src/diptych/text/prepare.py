"""What a request asks of the form of its answer, made ready for an engine."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from diptych.core.cards import Card
from diptych.core.errors import InvalidRequest
from diptych.core.events import Event, Finished, TokenDelta
from diptych.core.specs import ChatSpec, CompletionSpec
from diptych.text.dialects import dialect_of, told_by_template
from diptych.text.formats import Form, form_of
from diptych.text.prepare_check import invalid
from diptych.text.toolparse import FreeReader, HeldReader
from diptych.text.tools import Offer, described, offer_of


class Reader(Protocol):
    """Turns the events of one run into those that a client is told; gives back what it holds when `Finished` comes."""

    def read(self, event: Event) -> list[Event]: ...


class _Plain:
    def read(self, event: Event) -> list[Event]:
        return [event]


@dataclass(frozen=True)
class Prepared:
    """`spec` goes to the engine. `unheld` names what its grammar does not enforce: such an answer is told only when it
    has passed its check, and made again when it has not (`text/prepare_attempts.py`)."""

    spec: ChatSpec | CompletionSpec
    form: Form | None = None
    unheld: tuple[str, ...] = ()
    offer: Offer | None = field(default=None, repr=False)

    def reader(self) -> Reader:
        if self.offer is not None:
            kind = FreeReader if self.offer.grammar is None else HeldReader
            return kind(self.offer, self.form)
        return _Plain() if self.form is None else FormReader(self.form)


class FormReader:
    """Looks at the whole answer once more when it has ended by itself. An answer cut off at a limit says so by its
    reason; it is not held against its form."""

    def __init__(self, form: Form) -> None:
        self._form = form
        self._text: list[str] = []

    def read(self, event: Event) -> list[Event]:
        if isinstance(event, TokenDelta):
            self._text.append(event.text)
        elif isinstance(event, Finished) and event.reason == "stop":
            fault = self._form.fault("".join(self._text))
            if fault is not None:
                return [invalid(fault)]
        return [event]


def prepare(spec: ChatSpec | CompletionSpec, card: Card) -> Prepared:
    """Raises InvalidRequest for a form that cannot be held, and for what cannot be had together with it."""
    form = None if spec.format is None else form_of(spec.format)
    if card.format == "upstream":  # it holds the form itself; what it says is checked before it is told
        return Prepared(spec, form, () if spec.format is None else (spec.format.kind,))
    if isinstance(spec, ChatSpec):
        if spec.tools and spec.tool_choice != "none":
            return _with_tools(spec, card, form)
        if not told_by_template(card):
            spec = described(spec)
        elif spec.tools:
            spec = spec.model_copy(update={"tools": ()})
    if form is None or spec.format is None:
        return Prepared(spec)
    _check_together(spec, spec.format.field)
    return Prepared(spec.model_copy(update={"grammar": form.grammar}), form, form.unheld)


def _with_tools(spec: ChatSpec, card: Card, form: Form | None) -> Prepared:
    offer = offer_of(spec, dialect_of(card), form)
    if offer.forced:
        _check_together(spec, "tool_choice")
    elif spec.format is not None:
        _check_together(spec, spec.format.field)
    if not told_by_template(card):
        spec = described(spec)
    return Prepared(spec.model_copy(update={"grammar": offer.grammar}), form, offer.unheld, offer)


def _check_together(spec: ChatSpec | CompletionSpec, field: str) -> None:
    """What would break a form that is guaranteed is refused."""
    sampling = spec.sampling
    wrong = [("stop", "a stop text could cut the answer in the middle", bool(sampling.stop)),
             ("ignore_eos", "the form says where the answer ends", sampling.ignore_eos),
             ("min_tokens", "the form says where the answer ends", bool(sampling.min_tokens))]
    if isinstance(spec, CompletionSpec):
        wrong += [("echo", "the prompt would be part of the answer", spec.echo),
                  ("suffix", "the gap is filled as the text around it asks for", spec.suffix is not None)]
    elif spec.messages[-1].prefix:
        wrong.append(("messages", "an answer that was begun cannot be held to the form of a whole one", True))
    for name, reason, asked in wrong:
        if asked:
            raise InvalidRequest(f"{name} cannot be used together with {field}: {reason}", param=name)
