"""What clients of the responses API get back: one response object, and the events that build it up. Pure."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from typing import Any

from diptych.api.openai.answers import chat_logprobs, total
from diptych.api.openai.responses_schema import ResponsesRequest
from diptych.core.chat import ToolChoice
from diptych.core.errors import DiptychError
from diptych.core.events import Event, Finished, Metrics, ReasoningDelta, TokenDelta, ToolCallDelta
from diptych.core.specs import ChatSpec

INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter", "repetition": "repetition"}
Item = dict[str, Any]


def usage(metrics: dict[str, float]) -> dict[str, Any]:
    prompt, answer = total([metrics], "prompt_tokens"), total([metrics], "completion_tokens")
    return {"input_tokens": prompt, "input_tokens_details": {"cached_tokens": total([metrics], "cached_tokens")},
            "output_tokens": answer,
            "output_tokens_details": {"reasoning_tokens": total([metrics], "reasoning_tokens")},
            "total_tokens": prompt + answer}


def choice_shown(choice: ToolChoice) -> Any:
    return choice if isinstance(choice, str) else {"type": "function", "name": choice.name}


class Built:
    """One response, as it grows from the events of its run. `take` and `end` give the events of a stream; `response` is
    the whole at any time."""

    def __init__(self, body: ResponsesRequest, spec: ChatSpec, model: str) -> None:
        self._spec, self._number = spec, -1
        self._open: Item | None = None
        self._call = -1
        given = body.text if isinstance(body.text, dict) else {}
        reasoning = body.reasoning if isinstance(body.reasoning, dict) else {}
        sampling = spec.sampling
        self.response: dict[str, Any] = {
            "id": f"resp_{secrets.token_hex(16)}", "object": "response", "created_at": int(time.time()),
            "status": "in_progress", "background": False, "error": None, "incomplete_details": None,
            "instructions": body.instructions, "max_output_tokens": body.max_output_tokens, "model": model,
            "output": [], "parallel_tool_calls": spec.parallel_tool_calls, "previous_response_id": None,
            "reasoning": {"effort": reasoning.get("effort"), "summary": None}, "service_tier": "default",
            "store": False, "temperature": sampling.temperature, "top_p": sampling.top_p,
            "text": {"format": given.get("format") or {"type": "text"}}, "tool_choice": choice_shown(spec.tool_choice),
            "tools": [{"type": "function", "name": tool.name, "description": tool.description or None,
                       "parameters": tool.parameters, "strict": tool.strict} for tool in spec.tools],
            "truncation": spec.truncation, "usage": None, "user": None,
            "metadata": body.metadata if isinstance(body.metadata, dict) else {}}

    @property
    def ended(self) -> bool:
        return str(self.response["status"]) != "in_progress"

    def begin(self) -> Iterator[Item]:
        yield self._event("response.created", response=self._copy())
        yield self._event("response.in_progress", response=self._copy())

    def take(self, event: Event) -> Iterator[Item]:
        if isinstance(event, TokenDelta):
            yield from self._said(event)
        elif isinstance(event, ReasoningDelta):
            yield from self._begin_item("reasoning")
            yield from self._grow("response.reasoning_text", event.text)
        elif isinstance(event, ToolCallDelta):
            yield from self._called(event)
        elif isinstance(event, Metrics):
            self.response["usage"] = usage(event.values)
        elif isinstance(event, Finished):
            yield from self._end(event)

    def failed(self, error: DiptychError) -> Item:
        self.response |= {"status": "failed", "error": {"code": error.code or "server_error",
                                                        "message": error.message}}
        return self._event("response.failed", response=self._copy())

    def _said(self, event: TokenDelta) -> Iterator[Item]:
        if not event.text and not event.logprobs:
            return
        yield from self._begin_item("message")
        tokens = chat_logprobs(event.logprobs)["content"] if event.logprobs else []
        assert self._open is not None
        self._open["content"][0]["logprobs"] += tokens
        yield from self._grow("response.output_text", event.text, logprobs=tokens)

    def _begin_item(self, kind: str) -> Iterator[Item]:
        if self._open is not None and self._open["type"] == kind:
            return
        yield from self._end_item("completed")
        part: Item = {"type": "output_text", "text": "", "annotations": [], "logprobs": []} if kind == "message" else \
            {"type": "reasoning_text", "text": ""}
        item: Item = {"id": f"{'msg' if kind == 'message' else 'rs'}_{secrets.token_hex(12)}", "type": kind,
                      "status": "in_progress", "content": []}
        item |= dict[str, Any](role="assistant") if kind == "message" else dict[str, Any](summary=[])
        yield from self._add(item)
        item["content"].append(part)
        yield self._event("response.content_part.added", **self._place(), content_index=0, part={**part})

    def _grow(self, name: str, text: str, **more: Any) -> Iterator[Item]:
        assert self._open is not None
        self._open["content"][0]["text"] += text
        yield self._event(f"{name}.delta", **self._place(), content_index=0, delta=text, **more)

    def _called(self, event: ToolCallDelta) -> Iterator[Item]:
        if self._open is None or self._open["type"] != "function_call" or event.index != self._call:
            yield from self._end_item("completed")
            self._call = event.index
            yield from self._add({"id": f"fc_{secrets.token_hex(12)}", "type": "function_call",
                                  "status": "in_progress", "call_id": event.id or f"call_{secrets.token_hex(12)}",
                                  "name": event.name or "", "arguments": ""})
        if event.arguments:
            assert self._open is not None
            self._open["arguments"] += event.arguments
            yield self._event("response.function_call_arguments.delta", **self._place(), delta=event.arguments)

    def _add(self, item: Item) -> Iterator[Item]:
        self.response["output"].append(item)
        self._open = item
        yield self._event("response.output_item.added", output_index=len(self.response["output"]) - 1,
                          item=_copied(item))

    def _end_item(self, status: str) -> Iterator[Item]:
        """The events that close the open item."""
        item = self._open
        if item is None:
            return
        item["status"] = status
        place = self._place()
        if item["type"] == "function_call":
            yield self._event("response.function_call_arguments.done", **place, name=item["name"],
                              arguments=item["arguments"])
        else:
            part = item["content"][0]
            name, more = ("response.output_text.done", {"logprobs": part["logprobs"]}) \
                if item["type"] == "message" else ("response.reasoning_text.done", {})
            yield self._event(name, **place, content_index=0, text=part["text"], **more)
            yield self._event("response.content_part.done", **place, content_index=0, part={**part})
        yield self._event("response.output_item.done", output_index=place["output_index"], item=_copied(item))
        self._open = None

    def _end(self, finished: Finished) -> Iterator[Item]:
        reason = INCOMPLETE.get(finished.reason)
        status = "completed" if reason is None else "incomplete"
        yield from self._end_item(status)
        self.response |= {"status": status, "incomplete_details": None if reason is None else {"reason": reason}}
        if finished.guard is not None:
            self.response["guard"] = {"blocked": finished.guard}
        yield self._event(f"response.{status}", response=self._copy())

    def _place(self) -> Item:
        assert self._open is not None
        return {"item_id": self._open["id"], "output_index": len(self.response["output"]) - 1}

    def _copy(self) -> Item:
        return {**self.response, "output": [_copied(item) for item in self.response["output"]]}

    def _event(self, type: str, **values: Any) -> Item:
        self._number += 1
        return {"type": type, "sequence_number": self._number, **values}


def _copied(item: Item) -> Item:
    return {**item, "content": [{**part} for part in item["content"]]} if "content" in item else {**item}
