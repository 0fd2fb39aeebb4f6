"""Citations of an answer: found by the words that it shares with the passages, each checked before it is told. Pure.

A citation is *exact* where the answer repeats words of a passage in their order, and an *overlap* where a sentence
shares most of its words with one sentence of a passage, and all of its numbers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from diptych.text.grounding.markers import Note
from diptych.text.grounding.runs import Automaton
from diptych.text.grounding.sources import Citation, Passage, Support
from diptych.text.grounding.words import Word, sentences_of, words_of

LEAST_WEIGHT = 3.0
"""Words with a meaning of its own that an exact run has, unless it is a whole sentence."""
LEAST_SHARE, LEAST_WORDS = 0.65, 3.0
"""Of a sentence, for an overlap with what nobody named …"""
NAMED_SHARE, NAMED_WORDS = 0.4, 2.0
"""… and with a passage that the model named itself."""
MOST_SOURCES = 5
_QUOTED = re.compile(r'"([^"]*)"$')


@dataclass
class Read:
    """A passage with its words, its sentences and all its runs."""

    passage: Passage
    words: list[Word] = field(init=False)
    runs: Automaton = field(init=False)
    sentences: list[tuple[int, int, frozenset[str], bool]] = field(init=False)

    def __post_init__(self) -> None:
        self.words = words_of(self.passage.text)
        self.runs = Automaton(word.text for word in self.words)
        self.sentences = []
        for start, end in sentences_of(self.passage.text):
            inner = words_of(self.passage.text[start:end], start)
            self.sentences.append((start, end, frozenset(_stem(word.text) for word in inner),
                                   any(word.negation for word in inner)))

    def exact(self, words: Sequence[Word]) -> Support | None:
        """The first place that has exactly these words."""
        first = self.runs.find([word.text for word in words])
        if first is None:
            return None
        last = self.words[first + len(words) - 1]
        return Support(self.passage, self.words[first].start, last.end, "exact", 1.0)


def citations_of(answer: str, passages: Sequence[Passage], notes: Sequence[Note] = ()) -> list[Citation]:
    """In the order of the answer; they do not overlap.

    Args:
        answer: without the model's own marks.
        notes: where these were. A passage that the model named is looked at first and with less doubt, and cited only
            if it holds what is said.
    """
    reads = [Read(passage) for passage in passages]
    sentences = [(start, end, words_of(answer[start:end], start)) for start, end in sentences_of(answer)]
    found = _exact(answer, sentences, reads)
    for start, end, inner in sentences:
        if inner and not any(one.start < end and start < one.end for one in found):
            named = {number for note in notes if start < note.at <= end + 1 for number in note.numbers}
            sources = _overlaps(inner, reads, named)
            if sources:
                found.append(_citation(answer, start, end, sources))
    return checked(answer, sorted(found, key=lambda one: one.start))


def quotes_of(answer: str, passages: Sequence[Passage], notes: Sequence[Note]) -> list[Citation]:
    """The quotations that stand before a mark, in an answer whose marks have been taken out."""
    found = []
    for note in notes:
        quoted = _QUOTED.search(answer, 0, note.at)
        words = words_of(quoted[1]) if quoted else []
        sources = [place for number in note.numbers if (place := Read(passages[number - 1]).exact(words))]
        if quoted and sources:
            found.append(_citation(answer, quoted.start(1), quoted.end(1), sources))
    return checked(answer, found)


def checked(answer: str, citations: Iterable[Citation]) -> list[Citation]:
    """Those that hold: the text is that of the answer, every quote is not empty and in its source; an exact one has the
    words of the answer, in their order. What does not hold is left out."""
    kept = []
    for one in citations:
        said = [word.text for word in words_of(one.text)]
        sources = tuple(place for place in one.sources if place.quote.strip() and (
            place.match == "overlap" or [word.text for word in words_of(place.quote)] == said))
        if said and sources and answer[one.start:one.end] == one.text:
            kept.append(Citation(one.start, one.end, one.text, sources))
    return kept


def _exact(answer: str, sentences: list[tuple[int, int, list[Word]]], reads: list[Read]) -> list[Citation]:
    """The weightiest runs first; a run that overlaps one of them is left out. None goes over the end of a sentence."""
    words = [word for _, _, inner in sentences for word in inner]
    spans: dict[tuple[int, int], float] = {}
    for read in reads:
        begin = 0
        for _, _, inner in sentences:
            for first, last in _repeated(read, inner):
                weight = sum(word.weight for word in inner[first:last + 1])
                entire = first == 0 and last == len(inner) - 1
                if weight >= LEAST_WEIGHT or (entire and weight > 0):
                    spans[begin + first, begin + last] = weight
            begin += len(inner)
    taken: list[tuple[int, int]] = []
    found = []
    for first, last in sorted(spans, key=lambda span: (-spans[span], span)):
        if any(first <= other_last and other_first <= last for other_first, other_last in taken):
            continue
        sources = [place for read in reads if (place := read.exact(words[first:last + 1]))][:MOST_SOURCES]
        taken.append((first, last))
        found.append(_citation(answer, words[first].start, words[last].end, sources))
    return found


def _repeated(read: Read, sentence: list[Word]) -> Iterable[tuple[int, int]]:
    """The longest runs of a sentence that the passage has, first and last word. Without words at their ends that say
    nothing by themselves, unless it is all of the sentence."""
    lengths = read.runs.longest([word.text for word in sentence])
    for index, (length, _) in enumerate(lengths):
        if not length or (index + 1 < len(lengths) and lengths[index + 1][0] > length):
            continue
        first, last = index - length + 1, index
        if length < len(sentence):
            while first <= last and not sentence[first].weight:
                first += 1
            while last >= first and not sentence[last].weight and sentence[last].text not in "%$€£¥":
                last -= 1
        if first <= last:
            yield first, last


def _overlaps(sentence: list[Word], reads: list[Read], named: set[int]) -> list[Support]:
    """The best sentence of each passage that supports `sentence`; of those that the model named, if they do."""
    said = {_stem(word.text): word.weight for word in sentence if word.weight}
    numbers = {_stem(word.text) for word in sentence if word.number}
    negated = any(word.negation for word in sentence)
    weight = sum(said.values())
    found: list[tuple[bool, Support]] = []
    for number, read in enumerate(reads, 1):
        share, least = (NAMED_SHARE, NAMED_WORDS) if number in named else (LEAST_SHARE, LEAST_WORDS)
        best: Support | None = None
        for start, end, there, denied in read.sentences:
            common = sum(value for word, value in said.items() if word in there)
            if numbers <= there and denied == negated and common >= least and common >= share * weight and (
                    best is None or common / weight > best.score):
                best = Support(read.passage, start, end, "overlap", common / weight)
        if best is not None:
            found.append((number in named, best))
    found.sort(key=lambda one: (not one[0], -one[1].score))
    return [place for _, place in found][:MOST_SOURCES]


def _stem(word: str) -> str:
    """Without the s of plurals and verbs: enough to see that words are the same."""
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word


def _citation(answer: str, start: int, end: int, sources: Sequence[Support]) -> Citation:
    return Citation(start, end, answer[start:end], tuple(sources))
