"""The prompt language: what is read, that every text is read, and that reading takes time in proportion to the text."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diptych.core.errors import InvalidRequest
from diptych.prompts.check import MAX_PARTS, checked
from diptych.prompts.nodes import (
    Alternating,
    Break,
    Network,
    Part,
    Prompt,
    Scheduled,
    Text,
    Weighted,
    When,
    escaped,
    unparse,
)
from diptych.prompts.parser import MAX_DEPTH, MAX_WEIGHT, parse
from diptych.prompts.schedule import Segment, at_step, changes, mentions, plain_text

PIECES = ["a", "cat", " ", "(", ")", "[", "]", "{", "}", ":", "|", "\\", "1.2", "0.5", "5", "AND", "BREAK",
          "<lora:x:1>", "<", ">", "__", "_", "$$", "\n", "é", "-", ".", ",", "<lora:", "AND :1.5", "A", "B"]
NASTY = st.lists(st.sampled_from(PIECES), max_size=60).map("".join)
ANY = st.one_of(st.text(max_size=200), NASTY)


def segments(text: str, step: int = 0, steps: int = 10) -> list[tuple[str | None, float]]:
    found = [at_step(part, step, steps) for part in parse(text).parts]
    assert len(found) == 1
    return [(segment.text, round(segment.weight, 6)) for segment in found[0]]


@pytest.mark.parametrize(("text", "expected"), [
    ("a (red:1.3) cat", [("a ", 1.0), ("red", 1.3), (" cat", 1.0)]),
    ("a (red) cat", [("a ", 1.0), ("red", 1.1), (" cat", 1.0)]),
    ("a [red] cat", [("a ", 1.0), ("red", 0.909091), (" cat", 1.0)]),
    ("((red:1.5) cat:2)", [("red", 3.0), (" cat", 2.0)]),
    (r"a \(red\) cat", [("a (red) cat", 1.0)]),
    (r"a\b \\", [("a\\b \\", 1.0)]),
    ("(never closed", [("never closed", 1.1)]),
    ("closed) never", [("closed) never", 1.0)]),
    ("(a [b) c", [("a [b", 1.1), (" c", 1.0)]),
    ("ratio 16:9, 5|6", [("ratio 16:9, 5|6", 1.0)]),
    ("(16:9:1.2)", [("16:9", 1.2)]),
    ("(a:b)", [("a:b", 1.1)]),
    ("[a:b]", [("a:b", 0.909091)]),
    ("(a:-0.5)", [("a", -0.5)]),
    ("(a:1.2.3)", [("a:1.2.3", 1.1)]),
    ("(a:1e9)", [("a:1e9", 1.1)]),
    ("(a:" + "9" * 500 + ")", [("a", MAX_WEIGHT)]),
    ("a BREAK b", [("a", 1.0), (None, 1.0), ("b", 1.0)]),
    (r"a \BREAK BREAKS", [("a BREAK BREAKS", 1.0)]),
    ("()", []), ("", []),
    ("fe(male)", [("fe", 1.0), ("male", 1.1)]),
])
def test_weights(text: str, expected: list[tuple[str | None, float]]) -> None:
    assert segments(text) == expected


@pytest.mark.parametrize(("text", "by_step"), [
    ("a [dog:cat:0.5]", ["a dog", "a dog", "a cat", "a cat"]),
    ("a [dog:cat:1]", ["a dog", "a cat", "a cat", "a cat"]),
    ("a [cat:3]", ["a ", "a ", "a ", "a cat"]),
    ("a [cat::0.26]", ["a cat", "a ", "a ", "a "]),
    ("[a|b|c]", ["a", "b", "c", "a"]),
    ("[fe|]male", ["female", "male", "female", "male"]),
    ("[a:[b:c:3]:1]", ["a", "b", "b", "c"]),
    ("[a : b : 2 ]", ["a ", "a ", " b ", " b "]),
    ("[a:b:0]", ["b"] * 4), ("[a:b:1.0]", ["a"] * 4), ("[a:b:-3]", ["b"] * 4),
    ("[a:b:" + "9" * 400 + "]", ["a"] * 4),
    ("[a:b|c:0.5]", ["a:b", "c:0.5", "a:b", "c:0.5"]),
])
def test_schedules(text: str, by_step: list[str]) -> None:
    assert ["".join(one.text or "" for one in at_step(parse(text).parts[0], step, 4)) for step in range(4)] == by_step
    assert changes(parse(text))


def test_parts() -> None:
    prompt = parse(" a cat :1.5 AND a [dog:fox:0.5]\nAND  ")
    assert prompt == Prompt((
        Part((Text("a cat"),), 1.5),
        Part((Text("a "), Scheduled((Text("dog"),), (Text("fox"),), When(0.5, True)))),
        Part(())))
    assert parse("a ANDb LAND").parts == (Part((Text("a ANDb LAND"),)),)
    assert parse("a AND b :2", conjunction=False).parts == (Part((Text("a AND b :2"),)),)
    assert parse("a (b) AND [c]", syntax="plain").parts == (Part((Text("a (b) AND [c]"),)),)


def test_networks_are_told() -> None:
    prompt = parse("a (cat <lora:my style_v2:0.8>:1.2) [x|<lora:b:0.5:1>] <lyco:c:te=0.1:unet=2> <lora:> <b>")
    assert [(one.name, one.weights) for one in prompt.networks] == [
        ("my style_v2", {"te": 0.8, "unet": 0.8}), ("b", {"te": 0.5, "unet": 1.0}), ("c", {"te": 0.1, "unet": 2.0})]
    assert "lora:" not in plain_text(parse("a<lora:x:1>b"))
    assert Network("lora", "x").weights == {"te": 1.0, "unet": 1.0}
    assert checked("a (cat <lora:my style_v2:0.8>:1.2)", syntax="full", param="prompt").networks
    with pytest.raises(InvalidRequest, match="<lora:a> with the weight 11"):
        checked("<lora:a:0.5:11>", syntax="full", param="prompt")
    with pytest.raises(InvalidRequest, match="<hypernet:my style_v2>") as refused:
        checked("a (cat <hypernet:my style_v2:0.8>:1.2)", syntax="full", param="negative_prompt")
    assert refused.value.param == "negative_prompt"
    assert checked("<lora:x:1>", syntax="plain", param="prompt").networks == ()


def test_too_many_parts_are_refused() -> None:
    checked(" AND ".join("a" * MAX_PARTS), syntax="full", param="prompt")
    with pytest.raises(InvalidRequest, match=f"{MAX_PARTS + 1} parts"):
        checked(" AND ".join("a" * (MAX_PARTS + 1)), syntax="full", param="prompt")
    checked(" AND ".join("a" * 50), syntax="full", param="negative_prompt")


def test_embeddings_are_words() -> None:
    names = frozenset({"easynegative", "bad-hands"})
    assert mentions(parse("a (EasyNegative:1.2), [x|embedding:bad-hands,]"), names) == names
    assert mentions(parse("easynegatives"), names) == frozenset()


@given(ANY)
def test_every_text_is_read_and_written_back(text: str) -> None:
    for conjunction in (True, False):
        prompt = parse(text, conjunction=conjunction)
        again = unparse(prompt)
        assert parse(again, conjunction=conjunction) == prompt
        assert unparse(parse(again, conjunction=conjunction)) == again
    for step in (0, 1, 7):
        for part in parse(text).parts:
            assert all(abs(segment.weight) <= MAX_WEIGHT for segment in at_step(part, step, 8))
    plain_text(parse(text))


@given(st.text(alphabet=st.characters(exclude_characters="\\()[]{}|:<>"), max_size=200).filter(
    lambda text: "AND" not in text and "BREAK" not in text))
def test_words_are_themselves(text: str) -> None:
    assert plain_text(parse(text)) == text
    assert at_step(parse(text).parts[0], 0, 1) == ((Segment(text),) if text else ())


@given(ANY)
def test_escaped_text_is_itself(text: str) -> None:
    assert parse(escaped(text)).parts == (Part((Text(text),) if text else ()),)


@given(st.lists(st.floats(0.1, 3).map(lambda value: round(value, 3)), max_size=4))
def test_weights_multiply(weights: list[float]) -> None:
    text, product = "x", 1.0
    for weight in weights:
        text, product = f"({text}:{weight})", product * weight
    (segment,) = at_step(parse(text).parts[0], 0, 1)
    assert segment.weight == pytest.approx(product)


@pytest.mark.parametrize("text", [
    "(" * 20_000, "[" * 20_000, "([" * 10_000, "(" * 10_000 + ")" * 10_000, "[a|" * 5_000 + "]" * 5_000,
    "(a:" * 6_000 + "1.1)" * 3_000, "\\" * 20_000, "<lora:" * 3_333, "AND " * 5_000, "BREAK" * 4_000, "(]" * 10_000,
    "([)" * 6_000, "(a:" + "1" * 19_000 + "x)", "(a:1" + " " * 19_000 + "x)", "[:" * 10_000, "A" * 20_000,
    "[a:b:0.5" * 2_000 + "]" * 2_000,
])
def test_no_text_takes_long(text: str) -> None:
    began = time.process_time()
    prompt = parse(text)
    for part in prompt.parts[:50]:
        at_step(part, 3, 10)
    assert parse(unparse(prompt)) == prompt
    assert time.process_time() - began < 2, "20,000 characters are a matter of milliseconds"


def test_deep_brackets_are_text() -> None:
    prompt = parse("(" * 100 + "x" + ")" * 100)
    depth, nodes = 0, prompt.parts[0].items
    while any(isinstance(node, Weighted) for node in nodes):
        depth, nodes = depth + 1, next(node.items for node in nodes if isinstance(node, Weighted))
    assert depth == MAX_DEPTH
    assert nodes == (Text("(" * (100 - MAX_DEPTH) + "x" + ")" * (100 - MAX_DEPTH)),)


def test_nodes() -> None:
    assert parse("[a|(b:2)] BREAK [x]").parts[0].items == (
        Alternating(((Text("a"),), (Weighted((Text("b"),), 2.0),))), Break(), Weighted((Text("x"),), 1 / 1.1))
