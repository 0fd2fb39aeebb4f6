"""Citations that hold: words, runs, marks and the check, for any text."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.text.grammar import allows, fault_of
from diptych.text.grounding.citing import checked, citations_of, quotes_of
from diptych.text.grounding.fitting import joined
from diptych.text.grounding.markers import Markers, Note
from diptych.text.grounding.prompts import quote_format
from diptych.text.grounding.rank import bm25, fused
from diptych.text.grounding.runs import Automaton
from diptych.text.grounding.sources import Citation, Passage, Support
from diptych.text.grounding.words import sentences_of, words_of

TOWER = Passage("tower", "", "The Eiffel Tower is 330 metres tall. It was not loved at first.", 100)
WORDS = st.lists(st.sampled_from(["a", "b", "c", "the", "7", "not"]), max_size=30)
ANY = st.text(max_size=120)


def found(answer: str, *passages: Passage, notes: tuple[Note, ...] = ()) -> list[tuple[str, str, str]]:
    return [(one.text, source.quote, source.match)
            for one in citations_of(answer, passages or (TOWER,), notes) for source in one.sources]


@pytest.mark.parametrize(("one", "other"), [
    ("Don’t STOP", "don't\u00a0stop"), ("ﬁne co\u00adop", "Fine\n coop"), ("−5 %", "-5%"), ("Straße", "STRASSE"),
    ("cafe\u0301", "CAFÉ"), ("a, b; (c)", "A B C"), ("１２", "12")])
def test_words_that_are_the_same(one: str, other: str) -> None:
    assert [word.text for word in words_of(one)] == [word.text for word in words_of(other)] != []


@pytest.mark.parametrize(("one", "other"), [
    ("5 metres", "-5 metres"), ("3.5", "35"), ("5 %", "5"), ("$5", "5"), ("resume", "résumé"), ("1,000", "1.000")])
def test_words_that_are_not_the_same(one: str, other: str) -> None:
    assert [word.text for word in words_of(one)] != [word.text for word in words_of(other)]


def test_sentences() -> None:
    text = "Dr. Smith is 3.5 m tall. Really!  \n\n# Next\n- one\n- two 東京は首都です。次"
    assert [text[start:end] for start, end in sentences_of(text)] == [
        "Dr. Smith is 3.5 m tall.", "Really!", "# Next", "- one", "- two 東京は首都です。", "次"]


@given(WORDS, WORDS)
def test_the_automaton_finds_the_longest_runs(text: list[str], said: list[str]) -> None:
    automaton = Automaton(text)
    for index, (length, last) in enumerate(automaton.longest(said)):
        runs = [size for size in range(1, index + 2)
                if any(text[start:start + size] == said[index + 1 - size:index + 1] for start in range(len(text)))]
        assert length == max(runs, default=0)
        if length:
            assert text[last + 1 - length:last + 1] == said[index + 1 - length:index + 1]
            assert automaton.find(said[index + 1 - length:index + 1]) == last + 1 - length


def test_what_is_said_word_by_word() -> None:
    assert found("I think the tower is 330 metres tall.") == [("tower is 330 metres tall", "Tower is 330 metres tall",
                                                               "exact")]
    assert found("330 metres.", Passage("a", "", "It is 330 metres.", 0)) == [("330 metres", "330 metres", "exact")]


@pytest.mark.parametrize("answer", [
    "The tower was loved by all at first sight.", "It is 331 metres high.", "The tower was loved at first.", "It is.",
    "", "No idea.", "The the the is it."])
def test_what_is_not_there_is_not_cited(answer: str) -> None:
    assert found(answer) == []


def test_sentences_that_share_most_of_their_words() -> None:
    passage = Passage("a", "", "The bridge was built by Roman soldiers in 98. It burned down later.", 0)
    answer = "Soldiers of Rome, Roman soldiers, built a bridge in 98."
    assert found(answer, passage) == [(answer, "The bridge was built by Roman soldiers in 98.", "overlap")]
    assert found(answer.replace("98", "99"), passage) == []  # another number
    assert found(answer.replace("built", "never built"), passage) == []


def test_a_mark_of_the_model_alone_is_no_citation() -> None:
    note = (Note(30, (1,)),)
    assert found("Whales sing in the deep ocean.", notes=note) == []
    near = "Its height: 330 units, tower Eiffel, iron."
    assert found(near) == [] and found(near, notes=(Note(len(near), (1,)),)) == [
        (near, "The Eiffel Tower is 330 metres tall.", "overlap")]


def test_a_quote_that_is_not_in_its_source_is_dropped() -> None:
    good = Support(TOWER, 4, 16, "exact", 1.0)
    wrong = Support(TOWER, 20, 34, "exact", 1.0)
    empty = Support(TOWER, 5, 5, "overlap", 1.0)
    kept = checked("Eiffel Tower", [Citation(0, 12, "Eiffel Tower", (wrong, good, empty))])
    assert [one.sources for one in kept] == [(good,)]
    assert checked("Eiffel Tower", [Citation(0, 12, "Eiffel Tower", (wrong,))]) == []
    assert checked("Another text", [Citation(0, 12, "Eiffel Tower", (good,))]) == []


@settings(max_examples=200, deadline=None)
@given(ANY, st.lists(ANY, max_size=4), st.lists(st.tuples(st.integers(0, 120), st.integers(1, 4)), max_size=3))
def test_citations_of_any_text_hold(answer: str, texts: list[str], marks: list[tuple[int, int]]) -> None:
    passages = [Passage(str(index), "", text, 10 * index) for index, text in enumerate(texts)]
    notes = [Note(at, (number,)) for at, number in marks if number <= len(texts)]
    last = 0
    for one in [*citations_of(answer + " " + " ".join(texts)[:60], passages, notes)]:
        assert last <= one.start < one.end
        last = one.end
        for source in one.sources:
            passage = source.passage
            assert passage.text[source.start:source.end] == source.quote != ""
            told = source.told()
            assert told["start"] - passage.start == source.start
            if source.match == "exact":
                assert [w.text for w in words_of(source.quote)] == [w.text for w in words_of(one.text)]
    quotes_of(answer, passages, notes)


@given(st.lists(st.sampled_from(["a", " ", "[1]", "[2, 3]", "[", "]", "[x]", "[12", "[9]", "`", "\n", "é"]),
                max_size=30), st.integers(1, 5))
def test_marks_are_taken_out_however_the_text_is_cut(parts: list[str], size: int) -> None:
    text = "".join(parts)
    whole, pieces = Markers(3), Markers(3)
    told = whole.feed(text) + whole.end()
    cut = "".join(pieces.feed(text[at:at + size]) for at in range(0, len(text), size)) + pieces.end()
    assert cut == told and pieces.notes == whole.notes
    assert "`" in text or "[1]" not in told
    assert pieces.text == cut and whole.text == told


def test_marks_and_what_only_looks_like_one() -> None:
    marks = Markers(2)
    told = marks.feed("Tall [1]. Wide [1, 2]! Old [7]. Not [0], [x], `a[1]`, [") + marks.end()
    assert told == "Tall. Wide! Old. Not [0], [x], `a[1]`, ["
    assert marks.notes == [Note(4, (1,)), Note(10, (1, 2)), Note(15, ())]


def test_the_grammar_of_quotes() -> None:
    passages = [TOWER, Passage("b", "", 'Café "Zoé" opened\nin 1931 [sic].', 0)]
    grammar = quote_format(passages).value
    assert fault_of(grammar) is None
    for text in ('Tall: "is 330 metres tall" [1].', '"Zoé\' opened in 1931 [sic]" [2]', '"It was not loved" [1]'):
        assert allows(grammar, text), text
    for text in ('Tall: "is 331 metres tall" [1]', '"is 330 metres tall" [2]', '"is 330 met" [1]', "It is tall.",
                 '"" [1]', 'It is "330 metres tall', '"was loved at" [1]', '"is 330 metres tall " [1]'):
        assert not allows(grammar, text), text
    assert not allows(quote_format([]).value, 'it is "quoted"') and allows(quote_format([]).value, "Unknown.")


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(min_size=1, max_size=80).filter(lambda text: bool(text.strip())), min_size=1, max_size=3))
def test_the_grammar_of_quotes_is_valid_for_any_texts(texts: list[str]) -> None:
    assert fault_of(quote_format([Passage(str(i), "", text, 0) for i, text in enumerate(texts)]).value) is None


def test_ranks() -> None:
    assert bm25("red apples", ["green pears", "red apples and red wine", "apples"])[0] == 1
    assert bm25("?", ["a", "b"]) == [0, 1]
    assert [id for id, _ in fused([[1, 2, 3], [3, 1]])] == [1, 3, 2]


def test_passages_that_touch_become_one() -> None:
    text = "one two three four"
    parts = [Passage("a", "", text[:9], 0, 0.1), Passage("a", "", text[4:14], 4, 0.3), Passage("a", "", "x", 90)]
    assert [(one.text, one.start, one.score) for one in joined(parts)] == [(text[:14], 0, 0.3), ("x", 90, None)]
