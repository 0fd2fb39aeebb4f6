"""Logits of labels, run for a route."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from diptych.api.errors import shown
from diptych.api.openai.checked import flag_at, list_at, text_at
from diptych.api.services import Services
from diptych.api.tasks.data import all_measured
from diptych.core.cards import Card
from diptych.core.errors import InvalidRequest
from diptych.text.classify import NEUTRAL, Example, Label, Question, baseline_of, logits_of

MAX_LABELS, MAX_NAME, MAX_EXAMPLES = 200, 200, 100


@dataclass(frozen=True)
class Found:
    """Logits of each text, (texts, labels), and the tokens that were read."""

    logits: list[tuple[float, ...]]
    tokens: int


async def logits(
    services: Services, card: Card, question: Question, texts: Sequence[str], caller: str,
    name: Callable[[int], str],
) -> Found:
    """Raises DiptychError; `name` is what the client calls the text with an index."""
    key = (card.id, card.fingerprint, question)
    baseline = services.baselines.get(key)
    tokens = 0
    if baseline is None:
        specs = [question.spec(card.id, text) for text in NEUTRAL]
        values = await all_measured(services, specs, caller, lambda index: {"messages": "labels", "options": "labels"})
        baseline = baseline_of([value["logprobs"] for value in values])
        services.baselines.keep(key, baseline)
        tokens += sum(int(value["tokens"]) for value in values)
    specs = [question.spec(card.id, text) for text in texts]
    values = await all_measured(
        services, specs, caller, lambda index: {"messages": name(index), "options": name(index)})
    tokens += sum(int(value["tokens"]) for value in values)
    return Found([logits_of(value["logprobs"], baseline) for value in values], tokens)


def question_of(labels: Any, examples: Any, instructions: str | None, multi: bool) -> Question:
    """Raises InvalidRequest."""
    given = [_label(item, f"labels[{index}]") for index, item in enumerate(list_at(
        labels, "labels", "a list of labels", MAX_LABELS))]
    names = [label.name for label in given]
    if len(names) < (1 if multi else 2):
        raise InvalidRequest(f"labels has {len(names)} entries; it takes {1 if multi else 2} or more", param="labels")
    twice = next((name for index, name in enumerate(names) if name in names[:index]), None)
    if twice is not None:
        raise InvalidRequest(f"labels has {shown(twice)} twice", param="labels")
    shots = [] if examples is None else list_at(examples, "examples", "a list of examples", MAX_EXAMPLES)
    return Question(tuple(given), tuple(example_of(item, f"examples[{index}]", names, multi)
                                        for index, item in enumerate(shots)), (instructions or "").strip(), multi)


def example_of(item: Any, where: str, names: Sequence[str], multi: bool) -> Example:
    """`{text, label}`, or of a question with several answers `{text, labels}`. Raises InvalidRequest."""
    if not isinstance(item, dict):
        raise InvalidRequest(f"{where} must be an object with text and label, not {shown(item)}", param=where)
    text = text_at(item.get("text"), f"{where}.text", empty=False)
    field = "labels" if multi and "labels" in item else "label"
    given = item.get(field)
    labels: list[Any] = list_at(given, f"{where}.{field}") if field == "labels" else [given]
    for label in labels:
        if not isinstance(label, str) or label not in names:
            raise InvalidRequest(f"{where}.{field} is {shown(label)}, none of the labels", param=f"{where}.{field}")
    return Example(text, tuple(labels))


def texts_in(value: Any, name: str, most: int = 256) -> list[str]:
    """A text, or a list of texts. Raises InvalidRequest."""
    if isinstance(value, str):
        return [text_at(value, name, empty=False)]
    texts = list_at(value, name, "text or a list of texts", most)
    if not texts:
        raise InvalidRequest(f"{name} is empty", param=name)
    return [text_at(text, f"{name}[{index}]", empty=False) for index, text in enumerate(texts)]


def flag(value: Any, where: str) -> bool:
    return value is not None and flag_at(value, where)


def _label(item: Any, where: str) -> Label:
    if isinstance(item, dict):
        description = item.get("description")
        return Label(_name(item.get("name", item.get("label")), f"{where}.name"),
                     "" if description is None else text_at(description, f"{where}.description")[:2000])
    return Label(_name(item, where))


def _name(value: Any, where: str) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_NAME or value.strip() != value or "\n" in value:
        raise InvalidRequest(
            f"{where} must be 1 to {MAX_NAME} characters on one line, without spaces around, not {shown(value)}",
            param=where)
    return value
