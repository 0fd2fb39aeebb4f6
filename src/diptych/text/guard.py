"""Pieces of an answer, held back until they have been judged. Pure."""

from __future__ import annotations

from diptych.core.events import Event, Finished, ReasoningDelta, TokenDelta, ToolCallDelta

LEAST, MOST = 60, 200
"""Characters of what is judged at once: from the first on up to the end of a sentence, never more than the second
where the answer does not come faster than it is judged."""
BEFORE = 60
"""Characters of what was let through already, judged once more together with what follows."""
WINDOW, OVERLAP = 250, 60
"""Characters of a long text that are judged as one, and those that the next begins with again: in a longer one a bad
sentence would go down among harmless ones."""
ENDS = frozenset(".!?…;\n。！？；।")


class Held:
    """Events of one answer that nobody has judged yet, and the end of what was let through."""

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._new: dict[str, str] = {}
        self._before: dict[str, str] = {}
        self._ended = False

    def take(self, event: Event) -> None:
        self._events.append(event)
        self._ended = isinstance(event, Finished)
        found = said(event)
        if found is not None:
            kind, text = found
            self._new[kind] = self._new.get(kind, "") + text

    def due(self, more: bool) -> bool:
        """Whether what is held should be judged now. `more`: the next events are there already."""
        size = sum(map(len, self._new.values()))
        if self._ended or size >= MOST:
            return True
        return size >= LEAST and not more and any(text.rstrip(" ")[-1:] in ENDS for text in self._new.values() if text)

    def texts(self) -> list[str]:
        """What is to be judged: the answer, what was thought, and each call's arguments, apart."""
        return [self._before.get(kind, "") + text for kind, text in self._new.items() if text.strip()]

    def release(self) -> list[Event]:
        """The events, judged and found harmless."""
        for kind, text in self._new.items():
            self._before[kind] = (self._before.get(kind, "") + text)[-BEFORE:]
        events, self._events, self._new = self._events, [], {}
        return events


def said(event: Event) -> tuple[str, str] | None:
    """What an event tells its reader: where it belongs, and the text."""
    if isinstance(event, TokenDelta):
        return "text", event.text
    if isinstance(event, ReasoningDelta):
        return "reasoning", event.text
    if isinstance(event, ToolCallDelta):
        return f"call {event.index}", (event.name or "") + event.arguments
    return None


def windows(text: str) -> list[str]:
    """A long text in pieces that overlap."""
    if len(text) <= WINDOW:
        return [text]
    return [text[start:start + WINDOW] for start in range(0, len(text) - OVERLAP, WINDOW - OVERLAP)]


def halves(text: str) -> list[str]:
    """Two that overlap a little."""
    middle = len(text) // 2
    return [text[:middle + 20], text[middle - 20:]]
