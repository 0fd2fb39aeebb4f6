"""The loop of an agent, with a scripted model."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from diptych.core.chat import Message, Tool
from diptych.core.errors import DiptychError
from diptych.core.events import Event, Failed, Finished, Metrics, ReasoningDelta, TokenDelta, ToolCallDelta
from diptych.core.specs import ChatSpec
from diptych.text.agents import Agent, AgentEvent, Called, Ended, Limits, Returned, Said, Step
from diptych.text.registry import Registered, ToolError


class Model:
    """Each turn: a text, or a list of calls `(name, arguments)`."""

    def __init__(self, *turns: Any, delay: float = 0.0) -> None:
        self._turns, self._delay = list(turns), delay
        self.asked: list[ChatSpec] = []
        self.open = 0

    async def answer(self, spec: ChatSpec) -> AsyncGenerator[Event, None]:
        self.asked.append(spec)
        turn = self._turns.pop(0) if len(self._turns) > 1 else self._turns[0]
        self.open += 1
        try:
            await asyncio.sleep(self._delay)
            if isinstance(turn, Failed):
                yield turn
                return
            if isinstance(turn, str):
                yield ReasoningDelta(text="hm")
                yield TokenDelta(text=turn)
            else:
                for index, (name, arguments) in enumerate(turn):
                    yield ToolCallDelta(index=index, id=f"id{len(self.asked)}{index}", name=name)
                    yield ToolCallDelta(index=index, arguments=arguments)
            yield Metrics(values={"prompt_tokens": 10.0, "completion_tokens": 5.0})
            yield Finished(reason="stop" if isinstance(turn, str) else "tool_calls")
        finally:
            self.open -= 1


async def call(one: Registered, arguments: dict[str, Any], seconds: float) -> str:
    if arguments.get("fail"):
        raise ToolError("it is closed")
    await asyncio.sleep(arguments.get("sleep", 0))
    return "x" * arguments.get("length", 3)


def tool(name: str) -> Registered:
    async def run(arguments: dict[str, Any]) -> Any:
        raise AssertionError

    return Registered(Tool(name=name), "python", "test", run, 10.0)


def agent(model: Model, limits: Limits = Limits(5, 100, 20.0, 50), **more: Any) -> Agent:
    spec = ChatSpec(model="m", messages=(Message(role="user", content="?"),), tools=(Tool(name="t"),), **more)
    return Agent(spec, {"t": tool("t")}, model.answer, call, limits)


def events_of(made: Agent) -> list[AgentEvent]:
    async def gather() -> list[AgentEvent]:
        return [event async for event in made.run()]

    return asyncio.run(gather())


def test_calls_are_run_and_their_results_told() -> None:
    model = Model([("t", "{}"), ("t", '{"length": 80}')], "done")
    made = agent(model, tool_choice="required")
    events = events_of(made)
    assert [type(event) for event in events] == [Step, Called, Called, Returned, Returned, Step, Said, Said, Ended]
    results = [event for event in events if isinstance(event, Returned)]
    assert results[0].content == "xxx"
    assert results[1].content.startswith("x" * 50 + "\n[cut off: the result has 80 bytes")
    assert [spec.tool_choice for spec in model.asked] == ["required", "auto"]
    assert [message.role for message in model.asked[1].messages] == ["user", "assistant", "tool", "tool"]
    assert model.asked[1].messages[2].tool_call_id == model.asked[1].messages[1].tool_calls[0].id
    assert events[-1] == Ended(reason="stop", output="done", steps=2, tool_calls=2, usage={
        "prompt_tokens": 20, "completion_tokens": 10, "total_tokens": 30})
    assert [message.role for message in made.messages] == ["assistant", "tool", "tool", "assistant"]


def test_errors_of_tools_are_told_to_the_model() -> None:
    events = events_of(agent(Model([("t", '{"fail": true}'), ("unknown", "{}"), ("t", "[1]")], "sorry")))
    results = [event for event in events if isinstance(event, Returned)]
    assert [result.error for result in results] == [True] * 3
    assert json.loads(results[0].content) == {"error": "it is closed"}
    assert "no tool" in results[1].content and isinstance(events[-1], Ended) and events[-1].reason == "stop"


@pytest.mark.parametrize(("limits", "model", "reason"), [
    (Limits(3, 100, 20.0, 50), Model([("t", "{}")]), "max_steps"),
    (Limits(50, 12, 20.0, 50), Model([("t", "{}")]), "max_tokens"),
    (Limits(50, 100, 0.3, 50), Model([("t", '{"sleep": 0.2}')]), "max_seconds"),
    (Limits(50, 100, 0.2, 50), Model("late", delay=30.0), "max_seconds")])
def test_limits(limits: Limits, model: Model, reason: str) -> None:
    last = events_of(agent(model, limits))[-1]
    assert isinstance(last, Ended) and last.reason == reason and model.open == 0


def test_the_models_failure_is_the_runs() -> None:
    with pytest.raises(DiptychError) as failed:
        events_of(agent(Model(
            Failed(message="too long", status=400, param="messages", code="context_length_exceeded"))))
    assert failed.value.status == 400 and failed.value.code == "context_length_exceeded"


def test_closing_it_ends_what_runs() -> None:
    model = Model("never", delay=30.0)

    async def leave() -> None:
        events = agent(model).run()
        await anext(events)
        waiting = asyncio.ensure_future(anext(events))
        await asyncio.sleep(0.1)
        assert model.open == 1
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await events.aclose()

    asyncio.run(leave())
    assert model.open == 0
