"""What a model thinks, told apart from its answer, wherever the stream is cut; and messages that are mended."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from diptych.core.cards import Card
from diptych.core.chat import Message, TokenProbability, ToolCall
from diptych.core.errors import InvalidRequest
from diptych.core.events import Event, Finished, Metrics, ReasoningDelta, Started, TokenDelta, ToolCallDelta
from diptych.core.specs import ChatSpec, Sampling
from diptych.text.prepare import prepare
from diptych.text.reasoning import ReasoningSplitter
from diptych.text.repair import repaired
from diptych.text.stream import read

CARD = Card(id="m", panel="text", family="gguf", format="gguf", path="m.gguf", bytes=1)
CALL = '{"city": "Bern"}'
#: (raw text, thought, answer)
RAW = [
    ("Hello", "", "Hello"), ("  Hello", "", "  Hello"), ("<b>Hello</b>", "", "<b>Hello</b>"), ("", "", ""),
    ("<think>\nI think\n so </b>.\n</think>\n\nYes <think> it.", "I think\n so </b>.", "Yes <think> it."),
    ("[THINK]a[b[/THINK]c", "a[b", "c"), ("<think></think>ok", "", "ok"), ("<thin", "", "<thin"),
    ("<think>a</think>\n<think>b</think>c", "ab", "c"), ("<think>never ends", "never ends", ""),
    ("I use <think>x</think> there", "", "I use <think>x</think> there"),
    ("<|channel|>analysis<|message|>Hm x<|end|><|start|>assistant<|channel|>final<|message|>Yes!<|return|>",
     "Hm x", "Yes!"),
    ("<|channel|>commentary<|message|>First.<|end|><|start|>assistant<|channel|>final<|message|>Then.", "",
     "First.Then."),
]


def split(text: str, size: int) -> list[Event]:
    splitter = ReasoningSplitter()
    pieces: list[Event] = [TokenDelta(text=text[i:i + size]) for i in range(0, len(text), size)]
    return [told for event in [*pieces, Finished()] for told in splitter.read(event)]


def joined(events: list[Event], kind: type[Any]) -> str:
    return "".join(event.text for event in events if isinstance(event, kind))


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize("case", RAW, ids=lambda case: case[0][:20])
def test_thoughts_apart(case: tuple[str, str, str], size: int) -> None:
    events = split(case[0], size)
    assert (joined(events, ReasoningDelta), joined(events, TokenDelta)) == case[1:]
    assert isinstance(events[-1], Finished)


@pytest.mark.parametrize("size", [1, 5, 1000])
def test_calls_on_a_channel(size: int) -> None:
    events = split("<|channel|>analysis<|message|>Hm<|end|><|start|>assistant<|channel|>commentary "
                   f"to=functions.weather <|constrain|>json<|message|>{CALL}<|call|>", size)
    calls = [event for event in events if isinstance(event, ToolCallDelta)]
    assert calls[0].name == "weather"
    assert "".join(call.arguments for call in calls) == CALL
    assert events[-1] == Finished(reason="tool_calls")


def test_an_answer_is_not_held_back() -> None:
    splitter = ReasoningSplitter()
    assert splitter.read(TokenDelta(text="Hello")) == [TokenDelta(text="Hello")]
    assert splitter.read(TokenDelta(text=" <think")) == [TokenDelta(text=" <think")]


def test_probabilities_stay_with_their_text() -> None:
    splitter = ReasoningSplitter()
    token = TokenProbability(token="x", logprob=-1.0)
    told = [event for text in ("<", "b", ">") for event in splitter.read(TokenDelta(text=text, logprobs=(token,)))]
    assert joined(told, TokenDelta) == "<b>"
    assert sum(len(event.logprobs) for event in told if isinstance(event, TokenDelta)) == 3


def told_of(events: list[Event], spec: ChatSpec) -> tuple[list[Event], bool]:
    async def source() -> AsyncGenerator[Event, None]:
        for event in events:
            yield event

    async def work() -> tuple[list[Event], bool]:
        stop = asyncio.Event()
        return [event async for event in read(source(), spec, prepare(spec, CARD).reader(), stop)], stop.is_set()

    return asyncio.run(work())


def test_the_whole_way() -> None:
    spec = ChatSpec(model="m", messages=(Message(role="user", content="?"),))
    told, stopped = told_of(
        [*(TokenDelta(text=text) for text in ("<think>", "so", "</think>", "Yes")),
         Metrics(values={"prompt_tokens": 3, "completion_tokens": 4}), Finished()], spec)
    assert [type(event) for event in told] == [Started, ReasoningDelta, TokenDelta, Metrics, Finished]
    assert isinstance(told[3], Metrics)
    assert told[3].values["reasoning_tokens"] == 2
    assert not stopped


def test_a_loop_sets_stop_and_is_the_reason() -> None:
    loop = [TokenDelta(text="I do not know. ") for _ in range(100)]
    spec = ChatSpec(model="m", messages=(Message(role="user", content="?"),))
    told, stopped = told_of([*loop, Metrics(values={"completion_tokens": 40}), Finished(reason="cancelled")], spec)
    assert stopped
    assert told[-1] == Finished(reason="repetition")
    assert len(joined(told, TokenDelta)) < 800
    free = spec.model_copy(update={"sampling": Sampling(repetition_stop=False)})
    told, stopped = told_of([*loop, Finished()], free)
    assert not stopped
    assert len(joined(told, TokenDelta)) == 1500


def asked(*calls: ToolCall, dialect: Any = None, answers: tuple[str | None, ...] = ()) -> tuple[Message, ...]:
    messages = (Message(role="user", content="?"), Message(role="assistant", tool_calls=calls),
                *(Message(role="tool", content="42", tool_call_id=id) for id in answers))
    return repaired(messages, CARD.model_copy(update={"dialect": dialect}))


def test_foreign_ids_become_mistral_s() -> None:
    calls = (ToolCall(id="call_1", name="a"), ToolCall(id="x" * 32, name="b"), ToolCall(id="abcDEF123", name="c"))
    made = asked(*calls, dialect="mistral", answers=("x" * 32, "abcDEF123", "call_1"))
    ids = [call.id for call in made[1].tool_calls]
    assert ids[2] == "abcDEF123"
    assert all(len(id) == 9 and id.isalnum() for id in ids)
    assert len(set(ids)) == 3
    assert [message.tool_call_id for message in made[2:]] == [ids[1], ids[2], ids[0]]
    assert [message.name for message in made[2:]] == ["b", "c", "a"]
    assert asked(*calls, dialect="mistral", answers=())[1] == made[1]
    assert [call.id for call in asked(*calls, dialect="hermes")[1].tool_calls] == [call.id for call in calls]


def test_missing_ids_and_bad_arguments_are_mended() -> None:
    made = asked(ToolCall(id="1", name="a", arguments="not json"), ToolCall(id="2", name="b", arguments="[1]"),
                 ToolCall(id="3", name="c", arguments=""), answers=(None, None, None))
    assert [call.arguments for call in made[1].tool_calls] == ['{"input": "not json"}', '{"input": [1]}', "{}"]
    assert [message.tool_call_id for message in made[2:]] == ["1", "2", "3"]
    with pytest.raises(InvalidRequest, match="no message before it made a call"):
        asked(ToolCall(id="1", name="a"), answers=("9",))
    with pytest.raises(InvalidRequest, match="is missing"):
        repaired((Message(role="tool", content="42"),), CARD)
