"""What a prompt is in one step: texts with weights, schedules and alternations decided."""

from __future__ import annotations

from dataclasses import dataclass

from diptych.prompts.nodes import Alternating, Break, Node, Part, Prompt, Scheduled, Text, Weighted, children
from diptych.prompts.parser import MAX_WEIGHT


@dataclass(frozen=True)
class Segment:
    """A text of one weight. None instead of a text: a new chunk begins."""

    text: str | None
    weight: float = 1.0


Segments = tuple[Segment, ...]


def changes(prompt: Prompt) -> bool:
    """Whether it is not the same in all steps."""
    waiting: list[Node] = [item for part in prompt.parts for item in part.items]
    while waiting:
        node = waiting.pop()
        if isinstance(node, (Scheduled, Alternating)):
            return True
        waiting.extend(children(node))
    return False


def at_step(part: Part, step: int, steps: int) -> Segments:
    """The part in step `step` (0 is the first) of `steps`. Neighbours of equal weight are one text, so that a word that
    brackets divide is a word again."""
    found: list[Segment] = []
    _collect(part.items, 1.0, step, steps, found)
    merged: list[Segment] = []
    texts: list[str] = []
    for segment in [*found, Segment(None)]:
        if texts and (segment.text is None or segment.weight != merged[-1].weight):
            merged[-1] = Segment("".join(texts), merged[-1].weight)
            texts = []
        if segment.text is None:
            merged.append(segment)
            continue
        if not texts:
            merged.append(segment)
        texts.append(segment.text)
    return tuple(merged[:-1])


def _collect(items: tuple[Node, ...], weight: float, step: int, steps: int, found: list[Segment]) -> None:
    for node in items:
        if isinstance(node, Text):
            found.append(Segment(node.text, weight))
        elif isinstance(node, Break):
            found.append(Segment(None))
        elif isinstance(node, Weighted):
            product = min(max(weight * node.weight, -MAX_WEIGHT), MAX_WEIGHT)
            _collect(node.items, product, step, steps, found)
        elif isinstance(node, Scheduled):
            _collect(node.before if step < node.when.steps(steps) else node.after, weight, step, steps, found)
        elif isinstance(node, Alternating):
            _collect(node.options[step % len(node.options)], weight, step, steps, found)


def plain_text(prompt: Prompt) -> str:
    """The words of the first step, without weights; parts and chunks joined by spaces."""
    return " ".join("".join(segment.text if segment.text is not None else " " for segment in at_step(part, 0, 1))
                    for part in prompt.parts)


def mentions(prompt: Prompt, names: frozenset[str]) -> frozenset[str]:
    """Which of `names` (of embeddings, in small letters) stand as words in the prompt, in whatever step. A word that
    only the joining of several texts makes is not seen."""
    words: set[str] = set()
    waiting: list[Node] = [item for part in prompt.parts for item in part.items]
    while waiting:
        node = waiting.pop()
        if isinstance(node, Text):
            words.update(word.strip(",.;").removeprefix("embedding:").casefold() for word in node.text.split())
        waiting.extend(children(node))
    return frozenset(names & words)
