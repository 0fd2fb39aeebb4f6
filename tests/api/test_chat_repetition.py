"""Loops of answers: what is cut, what is not, and how an answer ends that goes round in circles."""

from __future__ import annotations

import json
import random
from pathlib import Path

import httpx
import pytest

from diptych.text.repetition import RepetitionWatch

ROOT = Path(__file__).resolve().parents[2]
DRAWN = random.Random(7)


def cut_at(text: str, size: int = 5) -> int | None:
    """Characters after which a loop was seen, in pieces of `size`."""
    watch = RepetitionWatch()
    return next((place + size for place in range(0, len(text), size) if watch.feed(text[place:place + size])), None)


WRITTEN_ON_PURPOSE = {
    "laughter": "ha " * 60, "cheering": "Goal! " * 40, "zeros": json.dumps([0] * 200),
    "matrix": "\n".join("[0, 0, 0, 1, 0, 0]," for _ in range(60)),
    "table": "| a | b |\n| --- | --- |\n" + "\n".join(f"| {i} | 0 |" for i in range(80)),
    "list": "\n".join(f"{i}. Item {i}" for i in range(1, 101)), "block": "\n".join("#" * 40 for _ in range(20)),
    "rule": "=" * 200, "lines": "I will not talk in class.\n" * 10,
    "objects": json.dumps([{"name": "", "value": 0}] * 40),
    "records": json.dumps([{"id": i, "name": f"user{i}"} for i in range(100)], indent=1),
    "triangle": "\n".join(" ".join("*" * i) for i in range(40)), "numbers": " ".join(map(str, range(300))),
    "alphabet": " ".join("abcdefghijklmnopqrstuvwxyz") * 3, "html": "<tr><td>0</td><td>0</td></tr>\n" * 40,
    "bases": "".join(DRAWN.choice("ACGT") for _ in range(2000)), "indent": " " * 120 + "x",
    "song": "Round the house and up the lane,\nhome again, home again, home again.\n" * 4,
    "verses": "".join(f"{i} birds upon the roof, {i} birds up there. One flew off, it did not care, {i - 1} birds upon "
                      "the roof.\n" for i in range(30, 10, -1)),
    "fizz": "\n".join("Fizz" * (i % 3 == 0) + "Buzz" * (i % 5 == 0) or str(i) for i in range(1, 101)),
}
LOOPS = {
    "sentence": "Once there was a cat. " + "The cat sat on the mat. " * 60, "word": "yes " * 400,
    "paragraph": "So. " + "The story of the man who went to sea is long, and he never came home to tell it to his wife "
                          "and his child, who waited at the window. " * 30,
    "blank lines": '{"a": 1' + "\n" * 600, "blanks": " " * 800, "letter": "a" * 3000, "zeros": "0, " * 1500,
    "code": "x = x + 1\n" * 400, "Japanese": "私は猫です。" * 120, "Russian": "Я не знаю, что делать. " * 60,
    "counted": "".join(f"On day {i} he went to the shop and bought a loaf of bread. " for i in range(100)),
    "varied": "".join(f"The thing was {DRAWN.choice(['old', 'lost', 'big'])} and the thing was said to be lost in "
                      "time. " for _ in range(120)),
}


@pytest.mark.parametrize("name", WRITTEN_ON_PURPOSE)
def test_what_is_written_on_purpose_is_not_cut(name: str) -> None:
    assert cut_at(WRITTEN_ON_PURPOSE[name]) is None


def test_real_text_is_not_cut() -> None:
    """Code, tables, prose and licences of this repository."""
    files = [*ROOT.glob("src/diptych/*/*.py"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("*.md"), ROOT / "LICENSE",
             ROOT / "pyproject.toml", *ROOT.glob("tests/*/*.py")][:150]
    assert len(files) > 100
    for file in files:
        assert cut_at(file.read_text(encoding="utf-8")[:20_000], 9) is None, file


@pytest.mark.parametrize("name", LOOPS)
@pytest.mark.parametrize("size", [1, 4, 17])
def test_loops_are_found(name: str, size: int) -> None:
    text = LOOPS[name]
    place = cut_at(text, size)
    assert place is not None
    assert place <= 0.8 * len(text)


CATS = "The cat sat on the mat. " * 4


def test_an_answer_that_loops_ends(http: httpx.Client) -> None:
    """The starter at temperature 0 goes round in circles after a while; the rest of its tokens is saved."""
    answer = http.post("/v1/completions", json={
        "model": "starter-text", "prompt": CATS, "temperature": 0, "max_tokens": 300}).json()
    assert answer["choices"][0]["finish_reason"] == "repetition"
    assert 60 < answer["usage"]["completion_tokens"] < 250
    assert answer["usage"]["prompt_tokens"] > 20
    assert answer["choices"][0]["text"].count("The cat sat on the mat.") >= 8


def test_a_stream_that_loops_ends_and_can_be_let_run(http: httpx.Client) -> None:
    body = {"model": "starter-text", "prompt": CATS, "temperature": 0, "max_tokens": 200, "stream": True,
            "stream_options": {"include_usage": True}}
    found = {}
    for stop in (True, False):
        with http.stream("POST", "/v1/completions", json={**body, "repetition_stop": stop}) as stream:
            chunks = [json.loads(line[6:]) for line in stream.iter_lines() if line.startswith("data: {")]
        found[stop] = chunks[-2]["choices"][0]["finish_reason"], chunks[-1]["usage"]["completion_tokens"]
    assert found[True][0] == "repetition"
    assert 60 < found[True][1] < 190
    assert found[False] == ("length", 200)
