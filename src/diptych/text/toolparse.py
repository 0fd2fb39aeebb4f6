"""The text of an answer that may call tools, read as it comes: text and pieces of calls."""

from __future__ import annotations

from collections.abc import Iterator

from diptych.core.chat import TokenProbability
from diptych.core.events import Event, Finished, TokenDelta, ToolCallDelta
from diptych.text.formats import Form
from diptych.text.formats_json import json_fault
from diptych.text.prepare_check import invalid
from diptych.text.reasoning import overlap
from diptych.text.toolparse_calls import calls_in
from diptych.text.tools import Offer

MAX_SECTION = 200_000
"""Characters of calls that are held until they are read; more is text."""


NAMED_WITHIN = 160
"""Characters in which JSON without a mark has to name what it calls."""


class Answer:
    """What both readers have in common: the text that is told, and the calls."""

    def __init__(self, offer: Offer, form: Form | None) -> None:
        self._offer, self._form = offer, form
        self._logprobs: list[TokenProbability] = []
        self._text: list[str] = []
        self._held = ""
        self._calls = 0

    def read(self, event: Event) -> list[Event]:
        if isinstance(event, TokenDelta):
            self._held += event.text
            self._logprobs.extend(event.logprobs)
            return list(self._drain())
        if isinstance(event, Finished):
            return list(self._end(event))
        return [event]

    def _drain(self) -> Iterator[Event]:
        raise NotImplementedError

    def _end(self, event: Finished) -> Iterator[Event]:
        raise NotImplementedError

    def _say(self, text: str) -> Iterator[Event]:
        if text:
            self._text.append(text)
            yield TokenDelta(text=text, logprobs=tuple(self._logprobs))
            self._logprobs.clear()

    def _begin(self, name: str) -> ToolCallDelta:
        self._logprobs.clear()
        self._calls += 1
        return ToolCallDelta(index=self._calls - 1, id=self._offer.dialect.new_id(), name=name)

    def _argue(self, arguments: str) -> ToolCallDelta:
        self._logprobs.clear()
        return ToolCallDelta(index=self._calls - 1, arguments=arguments)

    def _finished(self, event: Finished) -> Event:
        """The last event, once the answer is known to be what was asked for."""
        if self._calls:
            return event.model_copy(update={"reason": "tool_calls"}) if event.reason == "stop" else event
        if self._form is not None and event.reason == "stop":
            fault = self._form.fault("".join(self._text))
            if fault is not None:
                return invalid(fault)
        return event


class HeldReader(Answer):
    """The grammar holds every call: pieces of the arguments are told as they come."""

    def __init__(self, offer: Offer, form: Form | None) -> None:
        super().__init__(offer, form)
        bare = offer.forced or offer.dialect.name == "llama3"
        self._state = "header" if offer.forced else "start" if bare else "text"
        self._name = ""
        self._scan = JsonEnd()
        self._arguments: list[str] = []
        self._fault: str | None = None

    def _drain(self) -> Iterator[Event]:
        while True:
            before = self._state, self._held
            yield from getattr(self, f"_in_{self._state}")()
            if (self._state, self._held) == before:
                return

    def _in_start(self) -> Iterator[Event]:
        """Calls without a mark begin an answer with a brace."""
        if self._held:
            self._state = "header" if self._held.startswith("{") else "free"
        yield from ()

    def _in_free(self) -> Iterator[Event]:
        text, self._held = self._held, ""
        yield from self._say(text)

    def _in_text(self) -> Iterator[Event]:
        opener = self._offer.dialect.openers[0]
        before, found, rest = self._held.partition(opener)
        if found:
            self._state, self._held = "header", rest
            yield from self._say(before.rstrip() if not self._text and not before.strip() else before)
            return
        keep = overlap(self._held, opener)
        text, self._held = self._held[:len(self._held) - keep], self._held[len(self._held) - keep:]
        yield from self._say(text)

    def _in_header(self) -> Iterator[Event]:
        found = self._offer.dialect.header.search(self._held)
        if found is None or found.end() == len(self._held):
            return
        self._name, self._held, self._state = found["name"], self._held[found.end():], "arguments"
        self._scan, self._arguments = JsonEnd(), []
        yield self._begin(self._name)

    def _in_arguments(self) -> Iterator[Event]:
        end = self._scan.feed(self._held)
        piece, self._held = (self._held, "") if end is None else (self._held[:end], self._held[end:])
        if piece:
            self._arguments.append(piece)
            yield self._argue(piece)
        if end is not None:
            self._state = "header"
            schema = self._offer.schemas[self._name]
            fault = json_fault("".join(self._arguments), schema)
            self._fault = self._fault or (fault and f"arguments of {self._name}: {fault}")

    def _end(self, event: Finished) -> Iterator[Event]:
        if self._state == "text":
            yield from self._say(self._held)
        if event.reason == "stop":
            fault = self._fault
            if self._state == "arguments" or (self._offer.forced and not self._calls):
                fault = "the call is not whole"
            if fault is not None:
                yield invalid(fault)
                return
        yield self._finished(event)


class FreeReader(Answer):
    """Nothing holds the model: what looks like a call is held back until it is known to be one; else it is text."""

    def __init__(self, offer: Offer, form: Form | None) -> None:
        super().__init__(offer, form)
        self._state = "start" if offer.dialect.bare else "text"

    def _drain(self) -> Iterator[Event]:
        if self._state == "start":
            yield from self._start()
        if self._state == "bare" and len(self._held) > NAMED_WITHIN and '"name"' not in self._held[:NAMED_WITHIN]:
            self._state = "text"
        if self._state == "text":
            yield from self._find()
        while self._state == "calls":
            closer = self._offer.dialect.closer
            end = self._held.find(closer) if closer else -1
            if closer and end >= 0:
                section, self._held = self._held[:end + len(closer)], self._held[end + len(closer):]
                yield from self._told(section)
                self._state = "text"
                yield from self._find()
            elif len(self._held) > MAX_SECTION:
                section, self._held, self._state = self._held, "", "given up"
                yield from self._say(section)
            else:
                return
        if self._state == "given up":
            text, self._held = self._held, ""
            yield from self._say(text)

    def _start(self) -> Iterator[Event]:
        """An answer that begins as JSON, or as JSON in a code fence, may be a call without a mark."""
        text = self._held.lstrip()
        if text.startswith(("{", "[{", "```json")):
            self._state = "bare"
        elif text and not any(mark.startswith(text) for mark in ("[{", "```json")):
            self._state = "text"
        yield from ()

    def _find(self) -> Iterator[Event]:
        places = [(place, opener) for opener in self._offer.dialect.openers if (place := self._held.find(opener)) >= 0]
        if places:
            place, _ = min(places)
            before, self._held = self._held[:place], self._held[place:]
            self._state = "calls"
            if before.strip() or (self._text and not self._calls):
                yield from self._say(before)
            return
        keep = max(overlap(self._held, opener) for opener in self._offer.dialect.openers)
        text = self._held[:len(self._held) - keep]
        if self._calls and not text.strip():
            return  # line ends between two calls, or behind the last one
        self._held = self._held[len(text):]
        yield from self._say(text)

    def _told(self, section: str) -> Iterator[Event]:
        made = calls_in(section, self._offer.dialect, self._offer.schemas)
        if made is None:
            yield from self._say(section)
            return
        for call in made:
            yield self._begin(call.name)
            yield self._argue(call.arguments)

    def _end(self, event: Finished) -> Iterator[Event]:
        """A call that was cut off at a limit is text: what is missing is not known."""
        text, self._held = self._held, ""
        if self._state in ("calls", "bare") and event.reason == "stop" and event.stop is None:
            yield from self._told(text)
        elif not (self._calls and not text.strip()):
            yield from self._say(text)
        yield self._finished(event)


class JsonEnd:
    """Finds where a JSON object ends that comes in pieces."""

    def __init__(self) -> None:
        self._depth, self._quoted, self._escaped = 0, False, False

    def feed(self, piece: str) -> int | None:
        """Index behind the closing brace; None when the object goes on."""
        for index, char in enumerate(piece):
            if self._quoted:
                if self._escaped:
                    self._escaped = False
                elif char == "\\":
                    self._escaped = True
                elif char == '"':
                    self._quoted = False
            elif char == '"':
                self._quoted = True
            elif char in "{[":
                self._depth += 1
            elif char in "}]":
                self._depth -= 1
                if self._depth <= 0:
                    return index + 1
        return None
