"""Where a text repeats another word by word, in linear time: a suffix automaton over words. Pure.

Blumer et al., "The smallest automaton recognizing the subwords of a text", 1985.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence


class Automaton:
    """All runs of words of one text."""

    def __init__(self, words: Iterable[str]) -> None:
        self._next: list[dict[str, int]] = [{}]
        self._link, self._length, self._first = [-1], [0], [-1]
        last = 0
        for position, word in enumerate(words):
            last = self._extend(last, word, position)

    def longest(self, words: Sequence[str]) -> list[tuple[int, int]]:
        """For each place: how many words that end there are a run of the text too, and where that run first ends."""
        found: list[tuple[int, int]] = []
        state = length = 0
        for word in words:
            while state and word not in self._next[state]:
                state = self._link[state]
                length = self._length[state]
            if word in self._next[state]:
                state = self._next[state][word]
                length += 1
            found.append((length, self._first[state]))
        return found

    def find(self, words: Sequence[str]) -> int | None:
        """Where the first run of exactly these words begins."""
        state = 0
        for word in words:
            following = self._next[state].get(word)
            if following is None:
                return None
            state = following
        return self._first[state] - len(words) + 1 if words else None

    def _extend(self, last: int, word: str, position: int) -> int:
        made = self._state({}, self._length[last] + 1, position)
        state = last
        while state != -1 and word not in self._next[state]:
            self._next[state][word] = made
            state = self._link[state]
        if state == -1:
            self._link[made] = 0
            return made
        target = self._next[state][word]
        if self._length[target] == self._length[state] + 1:
            self._link[made] = target
            return made
        copy = self._state(dict(self._next[target]), self._length[state] + 1, self._first[target])
        self._link[copy] = self._link[target]
        while state != -1 and self._next[state].get(word) == target:
            self._next[state][word] = copy
            state = self._link[state]
        self._link[target] = self._link[made] = copy
        return made

    def _state(self, following: dict[str, int], length: int, first: int) -> int:
        self._next.append(following)
        self._link.append(-1)
        self._length.append(length)
        self._first.append(first)
        return len(self._next) - 1
