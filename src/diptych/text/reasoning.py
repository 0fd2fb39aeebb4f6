"""What a model thinks before it answers, told apart from the answer by the marks that its family writes."""

from __future__ import annotations

import re
from collections.abc import Iterator

from diptych.core.chat import TokenProbability
from diptych.core.events import Event, Finished, ReasoningDelta, TokenDelta, ToolCallDelta

MARKS: dict[str, str] = {
    "<think>": "</think>",  # DeepSeek R1, Qwen, Hermes and many more
    "[THINK]": "[/THINK]",  # Magistral
    "<seed:think>": "</seed:think>",
    "<thought>": "</thought>",
}
"""Opening mark: closing mark. They count at the beginning of an answer, and right behind another thought, only: further
on, an answer may speak about them."""
CHANNEL, MESSAGE = "<|channel|>", "<|message|>"
CHANNEL_ENDS = ("<|end|>", "<|return|>", "<|call|>")
"""gpt-oss: every piece of the answer is a message on a channel, `<|channel|>analysis<|message|>…<|end|>`."""
_OPENERS = (*MARKS, CHANNEL, "<|start|>")
_CALL = re.compile(r"to=functions\.([a-zA-Z0-9_.-]{1,128})")
MAX_HEADER = 300


class ReasoningSplitter:
    """One run: `TokenDelta`s of raw text in, `ReasoningDelta`s and `TokenDelta`s of the answer out. A mark may be cut
    anywhere between two deltas. All other events pass."""

    def __init__(self) -> None:
        self._held = ""
        self._state = "start"
        self._ends: tuple[str, ...] = ()
        self._logprobs: list[TokenProbability] = []
        self._blank: str | None = None
        self._calls = 0
        self.tokens = 0
        """Deltas that were thought; engines send one for each token."""

    def read(self, event: Event) -> list[Event]:
        if isinstance(event, Finished):
            return [*self._rest(), self._ended(event)]
        if not isinstance(event, TokenDelta):
            return [event]
        if self._state == "answer":
            return [event]
        self.tokens += self._state in ("think", "analysis")
        self._held += event.text
        self._logprobs.extend(event.logprobs)
        return list(self._drain())

    def _drain(self) -> Iterator[Event]:
        """Take steps until what is held may be the first part of a mark."""
        while True:
            before = self._state, self._held
            yield from getattr(self, f"_in_{self._state}")()
            if (self._state, self._held) == before or self._state == "answer":
                return

    def _in_start(self) -> Iterator[Event]:
        text = self._held.lstrip()
        for opener in _OPENERS:
            if text.startswith(opener):
                self._held = text[len(opener):]
                self._logprobs.clear()
                self._blank = None
                self._state = "think" if opener in MARKS else "header"
                self._ends = (MARKS[opener],) if opener in MARKS else CHANNEL_ENDS
                return
        if any(opener.startswith(text) for opener in _OPENERS):
            return
        self._state = "answer"
        yield from self._say(self._held)
        self._held = ""

    def _in_between(self) -> Iterator[Event]:
        """Behind a thought: another one, or the answer without the empty lines before it."""
        self._held = self._held.lstrip()
        if self._held:
            self._state = "start"
        yield from ()

    def _in_think(self) -> Iterator[Event]:
        text, closed = self._until_end()
        self._logprobs.clear()
        text = text.lstrip() if self._blank is None else self._blank + text
        thought = text.rstrip()
        if thought:
            yield ReasoningDelta(text=thought)
        if thought or self._blank is not None:
            self._blank = text[len(thought):]  # told only when the thought goes on behind it
        if closed:
            self._state = "between"

    _in_analysis = _in_think

    def _in_header(self) -> Iterator[Event]:
        head, found, rest = self._held.partition(MESSAGE)
        if not found and len(head) < MAX_HEADER:
            return
        self._held = rest if found else head
        call = _CALL.search(head)
        if call is not None:
            self._state = "call"
            yield ToolCallDelta(index=self._calls, id=f"call_{self._calls}", name=call[1])
            self._calls += 1
        else:
            self._state = "analysis" if "analysis" in head else "final"

    def _in_call(self) -> Iterator[Event]:
        text, closed = self._until_end()
        self._logprobs.clear()
        if text:
            yield ToolCallDelta(index=self._calls - 1, arguments=text)
        if closed:
            self._state = "between"

    def _in_final(self) -> Iterator[Event]:
        text, closed = self._until_end()
        yield from self._say(text)
        if closed:
            self._state = "between"

    def _until_end(self) -> tuple[str, bool]:
        """The text before the closing mark, and whether the mark is there; what may become one stays held."""
        places = [(place, end) for end in self._ends if (place := self._held.find(end)) >= 0]
        if places:
            place, end = min(places)
            text, self._held = self._held[:place], self._held[place + len(end):]
            return text, True
        keep = max(overlap(self._held, end) for end in self._ends)
        text, self._held = self._held[:len(self._held) - keep], self._held[len(self._held) - keep:]
        return text, False

    def _say(self, text: str) -> Iterator[Event]:
        if text:
            yield TokenDelta(text=text, logprobs=tuple(self._logprobs))
            self._logprobs.clear()

    def _rest(self) -> list[Event]:
        """What is still held when the run ends: a part of a mark that came to nothing."""
        text, self._held = self._held, ""
        if self._state in ("think", "analysis"):
            return [ReasoningDelta(text=(self._blank or "") + text)] if text else []
        if self._state == "call":
            return [ToolCallDelta(index=self._calls - 1, arguments=text)] if text else []
        return list(self._say(text)) if self._state != "header" else []

    def _ended(self, event: Finished) -> Finished:
        if self._calls and event.reason == "stop":
            return event.model_copy(update={"reason": "tool_calls"})
        return event


def overlap(text: str, mark: str) -> int:
    """How many characters at the end of `text` are the beginning of `mark`, without being all of it."""
    for length in range(min(len(text), len(mark) - 1), 0, -1):
        if text.endswith(mark[:length]):
            return length
    return 0
