"""A model and the tools of the server, turn by turn, until it answers or a limit is reached. Knows no HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from diptych.core.chat import Message, ToolCall
from diptych.core.errors import DiptychError
from diptych.core.events import Event, Failed, Finished, Metrics, ReasoningDelta, TokenDelta, ToolCallDelta
from diptych.core.specs import ChatSpec
from diptych.text.registry import Registered, ToolError

Answer = Callable[[ChatSpec], AsyncGenerator[Event, None]]
"""Has a model answer; the events of `text.prepare_attempts.answered`. May raise DiptychError."""
Call = Callable[[Registered, dict[str, Any], float], Awaitable[str]]
CUT = "\n[cut off: the result has {} bytes, of which the first {} are told]"
Reason = Literal["stop", "length", "repetition", "max_steps", "max_tokens", "max_seconds", "content_filter"]


class AgentEvent(BaseModel):
    model_config = ConfigDict(frozen=True)


class Step(AgentEvent):
    """The model is asked for the time number `step`, from 1."""

    type: Literal["step"] = "step"
    step: int


class Said(AgentEvent):
    """A piece of what the model says (`token`) or thinks (`reasoning`)."""

    type: Literal["token", "reasoning"]
    text: str


class Called(AgentEvent):
    """The model calls a tool; `arguments` is JSON text."""

    type: Literal["tool_call"] = "tool_call"
    step: int
    id: str
    name: str
    arguments: str


class Returned(AgentEvent):
    """What came of a call; with `error`, why nothing did. The model is told the same."""

    type: Literal["tool_result"] = "tool_result"
    step: int
    id: str
    name: str
    content: str
    error: bool
    seconds: float


class Ended(AgentEvent):
    """`output` is what the model said last; `reason` is "stop" when it had said all."""

    type: Literal["finished"] = "finished"
    reason: Reason
    output: str
    steps: int
    tool_calls: int
    usage: dict[str, int]


@dataclass(frozen=True)
class Limits:
    """`tokens` that the model makes in all steps together; `seconds` for everything; `result_bytes` of one result."""

    steps: int
    tokens: int
    seconds: float
    result_bytes: int


@dataclass
class _Turn:
    text: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    calls: list[dict[str, str]] = field(default_factory=list)
    reason: str = ""

    def take(self, event: ToolCallDelta) -> None:
        while len(self.calls) <= event.index:
            self.calls.append({"id": "", "name": "", "arguments": ""})
        call = self.calls[event.index]
        call["id"], call["name"] = event.id or call["id"], event.name or call["name"]
        call["arguments"] += event.arguments


class AgentFailed(DiptychError):
    """The model's answer failed."""

    def __init__(self, failed: Failed) -> None:
        super().__init__(failed.message, param=failed.param, code=failed.code)
        self.status = failed.status
        self.type = "invalid_request_error" if failed.status < 500 else "server_error"


class Agent:
    """One run. `run` gives its events; closing it ends what runs."""

    def __init__(
        self, spec: ChatSpec, tools: Mapping[str, Registered], answer: Answer, call: Call, limits: Limits,
    ) -> None:
        """Args:
            spec: the conversation so far, with the tools told to the model and the choice of the first step; later
                steps are free to call or not.
        """
        self._spec, self._tools, self._answer, self._call, self._limits = spec, tools, answer, call, limits
        self._end = time.monotonic() + limits.seconds
        self._usage = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
        self._calls = 0
        self.messages: list[Message] = []
        """What was added to the conversation."""

    async def run(self) -> AsyncGenerator[AgentEvent, None]:
        """Ends with `Ended`. Raises DiptychError when the model's answer is refused or fails."""
        turn = _Turn()
        for step in range(1, self._limits.steps + 1):
            yield Step(step=step)
            turn = _Turn()
            async with contextlib.aclosing(self._ask(step, turn)) as said:
                async for event in said:
                    yield event
            if turn.reason != "tool_calls" or not turn.calls:
                yield self._ended(turn, step, turn.reason)
                return
            self._remember(turn)
            for call in turn.calls:
                yield Called(step=step, **call)
            results = await asyncio.gather(*(self._run(step, call) for call in turn.calls))
            for result in results:
                self.messages.append(Message(role="tool", content=result.content, tool_call_id=result.id,
                                             name=result.name))
                yield result
            if self._left() <= 0:
                yield self._ended(turn, step, "max_seconds")
                return
            if self._usage["completion_tokens"] >= self._limits.tokens:
                yield self._ended(turn, step, "max_tokens")
                return
        yield self._ended(turn, self._limits.steps, "max_steps")

    async def _ask(self, step: int, turn: _Turn) -> AsyncGenerator[AgentEvent, None]:
        left = self._limits.tokens - self._usage["completion_tokens"]
        asked = self._spec.sampling.max_tokens
        sampling = self._spec.sampling.model_copy(update={"max_tokens": min(left, asked or left)})
        spec = self._spec.model_copy(update={
            "messages": (*self._spec.messages, *self.messages), "sampling": sampling,
            "tool_choice": self._spec.tool_choice if step == 1 or self._spec.tool_choice == "none" else "auto"})
        async with contextlib.aclosing(self._answer(spec)) as events:
            while True:
                try:
                    event = await asyncio.wait_for(anext(events), max(0.001, self._left()))
                except StopAsyncIteration:
                    break
                except asyncio.TimeoutError:
                    turn.reason, turn.calls = "max_seconds", []
                    return
                told = self._told(event, turn)
                if told is not None:
                    yield told
        if turn.reason == "length" and left <= (asked or left):
            turn.reason = "max_tokens"

    def _told(self, event: Event, turn: _Turn) -> AgentEvent | None:
        if isinstance(event, Failed):
            raise AgentFailed(event)
        if isinstance(event, TokenDelta):
            turn.text.append(event.text)
            return Said(type="token", text=event.text)
        if isinstance(event, ReasoningDelta):
            turn.reasoning.append(event.text)
            return Said(type="reasoning", text=event.text)
        if isinstance(event, ToolCallDelta):
            turn.take(event)
        elif isinstance(event, Metrics):
            for name in ("prompt_tokens", "completion_tokens"):
                self._usage[name] += int(event.values.get(name, 0))
        elif isinstance(event, Finished):
            turn.reason = event.reason
        return None

    def _remember(self, turn: _Turn) -> None:
        self.messages.append(Message(
            role="assistant", content="".join(turn.text), reasoning="".join(turn.reasoning) or None,
            tool_calls=tuple(ToolCall(**call) for call in turn.calls)))

    async def _run(self, step: int, call: dict[str, str]) -> Returned:
        began = time.monotonic()
        self._calls += 1
        try:
            arguments = json.loads(call["arguments"] or "{}")
            one = self._tools.get(call["name"])
            if one is None or not isinstance(arguments, dict):
                raise ToolError(f"there is no tool {call['name'][:100]!a} that takes this")
            content, failed = await self._call(one, arguments, max(0.001, self._left())), False
        except (ToolError, ValueError) as error:
            content, failed = json.dumps({"error": str(error)}, ensure_ascii=False), True
        return Returned(step=step, id=call["id"], name=call["name"], content=self._cut(content), error=failed,
                        seconds=round(time.monotonic() - began, 3))

    def _cut(self, content: str) -> str:
        raw = content.encode("utf-8", "replace")
        if len(raw) <= self._limits.result_bytes:
            return raw.decode()
        return raw[:self._limits.result_bytes].decode("utf-8", "ignore") + CUT.format(
            len(raw), self._limits.result_bytes)

    def _ended(self, turn: _Turn, step: int, reason: Any) -> Ended:
        if turn.reason != "tool_calls":
            self.messages.append(Message(role="assistant", content="".join(turn.text),
                                         reasoning="".join(turn.reasoning) or None))
        usage = {**self._usage, "total_tokens": self._usage["prompt_tokens"] + self._usage["completion_tokens"]}
        return Ended(reason="stop" if reason == "tool_calls" else reason, output="".join(turn.text), steps=step,
                     tool_calls=self._calls, usage=usage)

    def _left(self) -> float:
        return self._end - time.monotonic()
