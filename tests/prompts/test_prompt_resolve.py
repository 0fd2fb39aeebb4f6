"""Choices, wildcards and styles: drawn by the seed, bounded, and only once."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diptych.core.errors import InvalidRequest
from diptych.core.image_options import MAX_PROMPT
from diptych.core.specs import ImageSpec
from diptych.prompts.choices import Option, read
from diptych.prompts.nodes import unparse
from diptych.prompts.parser import parse
from diptych.prompts.prepare import prepared
from diptych.prompts.resolve import resolve
from diptych.prompts.schedule import plain_text
from diptych.prompts.styles import read_styles, styled
from diptych.prompts.wildcards import WildcardFiles

PIECES = ["a", "cat", " ", "(", ")", "[", "]", "{", "}", ":", "|", "\\", "1.2", "0.5:", "2::", "AND",
          "<lora:x__y__z:1>", "__", "__animal__", "_", "$$", "2$$", "1-2$$", "$", "é"]
NASTY = st.lists(st.sampled_from(PIECES), max_size=50).map("".join)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    files = {
        "animal": "cat\n\n# not this\n3::dog\n", "colour/warm": "red\norange\n", "both": "__colour/warm__ __animal__",
        "ring": "x __ring__", "empty": "# nothing\n", "brace": "x{\ny\\\n", "big": "\n".join(map(str, range(9000))),
        "long": "x" * 9000}
    for name, text in files.items():
        path = tmp_path / "wildcards" / f"{name}.txt"
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text(text)
    (tmp_path / "wildcards" / "broken.txt").write_bytes(b"\xff\xfe\xff")
    (tmp_path / "secret.txt").write_text("secret")
    return tmp_path


def some(name: str) -> tuple[Option, ...]:
    return tuple(Option(read(text)) for text in ("cat", "{red|blue} fox", "x{", "y\\", "__", "a|b", "(b"))


def drawn(text: str, values: WildcardFiles | None = None, count: int = 300) -> Counter[str]:
    take = values.values if values is not None else some
    return Counter(resolve(text, seed, take, param="prompt") for seed in range(count))


@pytest.mark.parametrize(("text", "possible"), [
    ("a {red|green}", {"a red", "a green"}),
    ("{a|}x", {"ax", "x"}),
    ("{ a | {b|c} }", {"a", "b", "c"}),
    ("{0::a|b}", {"b"}), ("{a:0.0|b}", {"b"}),
    ("{16:9|4:3}", {"16:9", "4:3"}),
    (r"{a\:0.5}", {r"a\:0.5"}),
    ("{(a:1.2)|[b|c]}", {"(a:1.2)", "[b|c]"}),
    ("{2$$a|b|c}", {"a, b", "a, c", "b, a", "b, c", "c, a", "c, b"}),
    ("{2$$ and $$a|b}", {"a and b", "b and a"}),
    ("{0-1$$a}", {"", "a"}), ("{9$$a|b}", {"a, b", "b, a"}), ("{1-$$a|b}", {"a", "b", "a, b", "b, a"}),
    ("{}", {""}), ("{a}", {"a"}), (r"\{a|b\}", {r"\{a|b\}"}), ("{a|b", {"{a|b"}), ("a}", {"a}"}),
    ("{(a|b}", {"(a", "b"}), ("<lora:__x__:1>", {"<lora:__x__:1>"}), ("___", {"___"}),
])
def test_choices(text: str, possible: set[str]) -> None:
    assert set(drawn(text)) == possible


def test_weights_of_options() -> None:
    for text in ("{3::a|b}", "{a:3.0|b}"):
        found = drawn(text, count=2000)
        assert 0.71 < found["a"] / 2000 < 0.79


def test_wildcards(folder: Path) -> None:
    files = WildcardFiles(folder / "wildcards")
    assert set(drawn("a __both__.", files)) == {f"a {colour} {kind}." for colour in ("red", "orange")
                                                for kind in ("cat", "dog")}
    found = drawn("__animal__", files, 2000)
    assert 0.71 < found["dog"] / 2000 < 0.79
    assert files.names()[:2] == ["animal", "big"]


@pytest.mark.parametrize(("text", "words"), [
    ("__animals__", "there are animal"), ("__ring__", "deep in each other"), ("__empty__", "no values"),
    ("__broken__", "no UTF-8"), ("__../secret__", "names no file"), ("__/etc/passwd__", "is absolute"),
    ("__con__", "something else"), ("{" * 20 + "__big__" + "}" * 20 + "__big__" * 400, "too many choices"),
    ("__long__ __long__ __long__", "characters"),
])
def test_what_cannot_be_drawn_is_told(folder: Path, text: str, words: str) -> None:
    files = WildcardFiles(folder / "wildcards")
    began = time.process_time()
    with pytest.raises(InvalidRequest, match=words) as refused:
        resolve(text, 1, files.values, param="prompt")
    assert refused.value.param == "prompt"
    assert time.process_time() - began < 3


@given(NASTY, st.integers(0, 2**63 - 1))
def test_a_seed_means_one_text_and_it_is_settled(text: str, seed: int) -> None:
    try:
        once = resolve(text, seed, some, param="prompt")
    except InvalidRequest:
        return
    assert resolve(text, seed, some, param="prompt") == once
    assert resolve(once, seed + 1, some, param="prompt") == once
    assert parse(unparse(parse(once))) == parse(once)


@given(st.text(max_size=200))
def test_any_text(text: str) -> None:
    resolve(text, 1, some, param="prompt")


@given(st.text(alphabet=st.characters(exclude_characters="{}_"), max_size=200))
def test_without_choices_nothing_changes(text: str) -> None:
    assert resolve(text, 3, some, param="prompt") == text


@pytest.mark.parametrize("text", [
    "{" * 20_000, "{a|" * 6_000, "{" * 9_999 + "}" * 9_999, "__a" * 6_000, "_" * 20_000, "{(" * 10_000, "{(}" * 6_000,
    "{2$$" * 5_000, "{" + "1" * 19_990 + "::a}", "{a:" + "1" * 19_990 + "}", "{" + "\\" * 19_990 + "}", "$" * 20_000,
    "{1$$" + "$" * 19_000 + "}",
])
def test_no_text_takes_long(text: str) -> None:
    began = time.process_time()
    with contextlib.suppress(InvalidRequest):  # braces without meaning grow by a backslash each
        plain_text(parse(resolve(text, 1, some, param="prompt")))
    assert time.process_time() - began < 2


def test_styles(tmp_path: Path) -> None:
    (tmp_path / "styles.csv").write_text(
        'name,prompt,negative_prompt\nnoir,"{prompt}, black and white",colour\nold,from csv,\n')
    (tmp_path / "styles.json").write_text('[{"name": "old", "prompt": "an old {prompt}"}, {"name": "x"}]')
    styles = read_styles(tmp_path)
    assert styled("a cat", "blur", ["old", "noir", "x"], styles) == ("an old a cat, black and white", "blur, colour")
    with pytest.raises(InvalidRequest, match=r"'none'.*known: "):
        styled("a", "", ["none"], styles)
    for text in ("[1]", "{", "3", '[{"name": 3}]', "[" * 100_000, '{"a": {"prompt": []}, "b": {"prompt": [1]}}'):
        (tmp_path / "styles.json").write_text(text)
        with pytest.raises(InvalidRequest, match=r"styles\.json"):
            read_styles(tmp_path)
    (tmp_path / "styles.json").write_text('{"short": "{prompt}!", "long": {"prompt": "x"}}')
    assert read_styles(tmp_path)["short"].prompt == "{prompt}!"


def test_each_picture_has_its_own_text(folder: Path) -> None:
    (folder / "styles.json").write_text('{"bold": {"prompt": "bold {prompt}", "negative_prompt": "__animal__"}}')
    spec = ImageSpec(prompt="a {red|green|blue|grey} __animal__", seed=5, count=8, styles=("bold",))
    whole = prepared(spec, folder)
    assert (whole.prompt, len(whole.resolved)) == (spec.prompt, 8)
    assert len({one.prompt for one in whole.resolved}) > 1
    assert all(one.prompt.startswith("bold a ") and one.negative_prompt in ("cat", "dog") for one in whole.resolved)
    assert prepared(spec.model_copy(update={"seed": 8, "count": 1}), folder).resolved == whole.resolved[3:4]
    assert prepared(ImageSpec(prompt="a (cat:1.2) {"), folder).resolved == ()
    plain = prepared(ImageSpec(prompt="a {b|c} __none__", prompt_syntax="plain", styles=("bold",)), folder)
    assert plain.resolved[0].prompt == "bold a {b|c} __none__"
    with pytest.raises(InvalidRequest, match="<hypernet:x>"):
        prepared(ImageSpec(prompt="{a|<hypernet:x:1>}", count=20, seed=1), folder)
    with pytest.raises(InvalidRequest, match="with its styles"):
        prepared(ImageSpec(prompt="x" * MAX_PROMPT, styles=("bold",)), folder)
    with pytest.raises(InvalidRequest, match="count is 64"):
        prepared(ImageSpec(prompt="x" * 8000 + "{a|b}", count=64, seed=1), folder)


def test_records_without_the_language_keep_their_words() -> None:
    assert ImageSpec.of_record({"prompt": "a (cat)"}).prompt_syntax == "plain"
    spec = prepared(ImageSpec(prompt="{a|b}", seed=1, clip_skip=2), Path("nowhere"))
    assert ImageSpec.of_record(spec.model_dump(mode="json")) == spec
