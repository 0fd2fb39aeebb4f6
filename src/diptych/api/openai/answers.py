"""What OpenAI's clients get back, as JSON values. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from diptych.core.chat import TokenProbability
from diptych.core.events import Event, Finished, Metrics, ReasoningDelta, TokenDelta, ToolCallDelta
from diptych.text.grounding.sources import Cited

Kind = Literal["chat", "completion"]
OBJECTS = {"chat": "chat.completion", "completion": "text_completion"}
CHUNKS = {"chat": "chat.completion.chunk", "completion": "text_completion"}


@dataclass
class Said:
    """One answer, gathered from its events."""

    text: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    calls: list[dict[str, str]] = field(default_factory=list)
    logprobs: list[TokenProbability] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)
    finished: Finished | None = None
    citations: Cited | None = None

    def take(self, event: Event) -> None:
        if isinstance(event, TokenDelta):
            self.text.append(event.text)
            self.logprobs.extend(event.logprobs)
        elif isinstance(event, ReasoningDelta):
            self.reasoning.append(event.text)
        elif isinstance(event, ToolCallDelta):
            self._call(event)
        elif isinstance(event, Metrics):
            self.metrics = event.values
        elif isinstance(event, Finished):
            self.finished = event
        elif isinstance(event, Cited):
            self.citations = event

    def _call(self, event: ToolCallDelta) -> None:
        while len(self.calls) <= event.index:
            self.calls.append({"id": "", "name": "", "arguments": ""})
        call = self.calls[event.index]
        call["id"] = event.id or call["id"]
        call["name"] = event.name or call["name"]
        call["arguments"] += event.arguments

    @property
    def likelihood(self) -> float:
        """Mean logarithm of the tokens' probabilities; what `best_of` sorts by."""
        return sum(token.logprob for token in self.logprobs) / max(1, len(self.logprobs))


def usage(prompts: Iterable[dict[str, float]], answers: Iterable[dict[str, float]]) -> dict[str, Any]:
    """Token counts. `prompts`: metrics of one run for each prompt, which counts once; `answers`: of all runs."""
    prompts, answers = list(prompts), list(answers)
    prompt, cached = total(prompts, "prompt_tokens"), total(prompts, "cached_tokens")
    answer, thought = total(answers, "completion_tokens"), total(answers, "reasoning_tokens")
    return {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer,
            "prompt_tokens_details": {"cached_tokens": cached},
            "completion_tokens_details": {"reasoning_tokens": thought}}


def total(metrics: Iterable[dict[str, float]], name: str) -> int:
    return int(sum(values.get(name, 0) for values in metrics))


@dataclass(frozen=True)
class Head:
    """What every piece of one response has in common. `old_calls`: the client used `functions`, and gets
    `function_call`."""

    kind: Kind
    id: str
    created: int
    model: str
    old_calls: bool = False
    stop_shown: bool = False

    def fields(self, object: str) -> dict[str, Any]:
        return {"id": self.id, "object": object, "created": self.created, "model": self.model,
                "system_fingerprint": None, "service_tier": "default"}

    def whole(self, choices: list[dict[str, Any]], counts: dict[str, Any]) -> dict[str, Any]:
        """An answer that is not streamed."""
        return {**self.fields(OBJECTS[self.kind]), "choices": choices, "usage": counts}

    def choice(self, index: int, said: Said) -> dict[str, Any]:
        """One answer of several. The text of a completion's logprobs begins at 0."""
        assert said.finished is not None
        text = "".join(said.text) + self.stop_text(said.finished)
        made: dict[str, Any] = {"index": index, "logprobs": None, **self.ending(said.finished)}
        if self.kind == "completion":
            made |= {"text": text}
            if said.logprobs:
                made["logprobs"] = old_logprobs(said.logprobs, 0)
            return made
        message: dict[str, Any] = {"role": "assistant", "content": text or (None if said.calls else ""),
                                   "refusal": None}
        if said.reasoning:
            message["reasoning_content"] = "".join(said.reasoning)
        if said.calls and self.old_calls:
            message["function_call"] = {name: said.calls[0][name] for name in ("name", "arguments")}
        elif said.calls:
            message["tool_calls"] = [
                {"id": call["id"], "type": "function", "function": {"name": call["name"],
                                                                    "arguments": call["arguments"]}}
                for call in said.calls]
        if said.citations is not None:
            message["citations"] = list(said.citations.citations)
        if said.logprobs:
            made["logprobs"] = chat_logprobs(said.logprobs)
        return {**made, "message": message}

    def ending(self, finished: Finished) -> dict[str, Any]:
        """`stop_reason` is the stop text that ended the answer, as vLLM tells it."""
        reason = finished.reason
        if self.old_calls and reason == "tool_calls":
            reason = "function_call"
        told = {"finish_reason": reason, "stop_reason": finished.stop}
        return told if finished.guard is None else {**told, "guard": {"blocked": finished.guard}}

    def stop_text(self, finished: Finished) -> str:
        return finished.stop or "" if self.stop_shown else ""

    def chunk(
        self, index: int, delta: dict[str, Any] | str, logprobs: Any = None, ending: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """A piece of a streamed answer; `delta` is the text of a completion."""
        choice: dict[str, Any] = {"index": index, "logprobs": logprobs, **(ending or {"finish_reason": None})}
        choice["delta" if self.kind == "chat" else "text"] = delta
        return {**self.fields(CHUNKS[self.kind]), "choices": [choice]}

    def usage_chunk(self, counts: dict[str, Any]) -> dict[str, Any]:
        """The last piece, where the client asked for it: no text, only the counts."""
        return {**self.fields(CHUNKS[self.kind]), "choices": [], "usage": counts}

    def delta(self, event: Event, offset: int) -> tuple[dict[str, Any] | str, Any] | None:
        """`(delta, logprobs)` of an event that says something; `offset`: characters before it."""
        if isinstance(event, TokenDelta):
            if self.kind == "completion":
                return event.text, old_logprobs(event.logprobs, offset) if event.logprobs else None
            return {"content": event.text}, chat_logprobs(event.logprobs) if event.logprobs else None
        if isinstance(event, ReasoningDelta):
            return {"reasoning_content": event.text}, None
        if isinstance(event, ToolCallDelta):
            return self._call_delta(event), None
        if isinstance(event, Cited):
            return {"citations": list(event.citations)}, None
        return None

    def _call_delta(self, event: ToolCallDelta) -> dict[str, Any]:
        function = {"arguments": event.arguments} if event.name is None else \
            {"name": event.name, "arguments": event.arguments}
        if self.old_calls:
            return {"function_call": function} if event.index == 0 else {}
        call: dict[str, Any] = {"index": event.index, "function": function}
        if event.id is not None:
            call |= {"id": event.id, "type": "function"}
        return {"tool_calls": [call]}


def chat_logprobs(tokens: Iterable[TokenProbability]) -> dict[str, Any]:
    return {"content": [{**_token(token), "top_logprobs": [_token(other) for other in token.top]} for token in tokens],
            "refusal": None}


def _token(token: TokenProbability) -> dict[str, Any]:
    raw = token.bytes if token.bytes is not None else token.token.encode(errors="replace")
    return {"token": token.token, "logprob": token.logprob, "bytes": list(raw)}


def old_logprobs(tokens: Iterable[TokenProbability], offset: int) -> dict[str, Any]:
    """The form of completions: four lists, with the characters before each token."""
    made: dict[str, Any] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
    for token in tokens:
        made["tokens"].append(token.token)
        made["token_logprobs"].append(token.logprob)
        made["top_logprobs"].append({other.token: other.logprob for other in token.top})
        made["text_offset"].append(offset)
        offset += len(token.token)
    return made
