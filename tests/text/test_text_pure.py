"""The parts of the text engine that need no model."""

from __future__ import annotations

import json
import random

import pytest

from diptych.core.chat import Message, TokenProbability, ToolCall
from diptych.engines.text.conversation import fitting, merged, mistral_id, repaired, system_into_user
from diptych.engines.text.stops import Piece, StopWatch


def said(stops: list[str], pieces: list[str]) -> tuple[str, str | None, list[str]]:
    """All that is told of `pieces`, the stop text, and the tokens whose probabilities were told."""
    watch, told = StopWatch(stops), []
    for text in pieces:
        told.append(watch.add(Piece(text, (TokenProbability(token=text, logprob=-1),))))
        if watch.found is not None:
            break
    if watch.found is None:
        told.append(watch.flush())
    done = [piece for piece in told if piece is not None]
    return ("".join(piece.text for piece in done), watch.found,
            [item.token for piece in done for item in piece.logprobs])


def test_stop_texts_over_random_pieces() -> None:
    rng = random.Random(5)
    for _ in range(3000):
        whole = "".join(rng.choice("abc") for _ in range(rng.randint(0, 14)))
        stops = ["".join(rng.choice("abc") for _ in range(rng.randint(1, 4))) for _ in range(rng.randint(0, 3))]
        pieces, rest = [], whole
        while rest:
            size = rng.randint(0, 3)
            pieces.append(rest[:size])
            rest = rest[size:]
        text, found, tokens = said(stops, pieces)
        # Found as soon as a piece completes one; among those complete by then, the one that begins first.
        seen = ""
        for piece in pieces:
            seen += piece
            if any(stop in seen for stop in stops):
                break
        places = [(seen.find(stop), -len(stop), stop) for stop in stops if stop in seen]
        if places:
            assert (text, found) == (seen[:min(places)[0]], min(places)[2])
        else:
            assert (text, found) == (whole, None) and tokens == pieces


def test_nothing_is_held_back_without_need() -> None:
    watch = StopWatch(["xyz"])
    assert watch.add(Piece("abc")) == Piece("abc")
    assert watch.add(Piece("x")) is None
    assert watch.add(Piece("a")) == Piece("xa")


def turns(*roles: str) -> tuple[Message, ...]:
    return tuple(Message.model_validate({"role": {"s": "system", "u": "user", "a": "assistant", "t": "tool"}[role],
                                         "content": f"{role}{number}"}) for number, role in enumerate(roles))


@pytest.mark.parametrize(("roles", "room", "kept"), [
    ("suauau", 6, "suauau"), ("suauau", 5, "suau"), ("suauau", 4, "suau"), ("suauau", 3, "su"), ("suauau", 2, "su"),
    ("auau", 3, "uau"), ("uatatau", 3, "u"), ("uauata", 4, "uata"), ("usua", 3, "sua"),
])
def test_the_oldest_turns_are_left_out(roles: str, room: int, kept: str) -> None:
    messages = turns(*roles)
    found = fitting(messages, lambda rest: len(rest) <= room)
    assert found is not None
    assert "".join(message.role[0] for message in found[0]) == kept and found[1] == len(roles) - len(kept)


def test_a_last_turn_that_does_not_fit() -> None:
    assert fitting(turns(*"suaua"), lambda rest: len(rest) < 3) is None


def test_repairs() -> None:
    assert [message.content for message in merged(turns(*"uuasa"))] == ["u0\n\nu1", "a2", "s3", "a4"]
    assert [message.content for message in system_into_user(turns(*"sua"))] == ["s0\n\nu1", "a2"]
    calls = (ToolCall(id="1", name="f", arguments="[1]"), ToolCall(id="2", name="g", arguments=""))
    first, one, two = repaired((Message(role="assistant", tool_calls=calls), Message(role="tool", content="x"),
                                Message(role="tool", content="y")))
    assert json.loads(first.tool_calls[0].arguments) == {"arguments": [1]} and first.tool_calls[1].arguments == "{}"
    assert [(message.tool_call_id, message.name) for message in (one, two)] == [("1", "f"), ("2", "g")]


def test_ids_of_calls_for_mistral() -> None:
    assert mistral_id("abcDEF123") == "abcDEF123"
    ids = {mistral_id(f"call_{number}") for number in range(1000)}
    assert len(ids) == 1000 and all(len(id) == 9 and id.isalnum() for id in ids)
    assert mistral_id("call_7") == mistral_id("call_7")
