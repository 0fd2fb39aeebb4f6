"""From OpenAI's requests to specs. Pure."""

from __future__ import annotations

import re
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from diptych.api.errors import not_supported, path_of, refusal, shown
from diptych.api.native.convert import image_spec
from diptych.api.openai.schema import ChatMessage, ChatRequest, CompletionRequest, ImageRequest, SamplingFields
from diptych.api.openai.unsupported import CHAT, COMPLETION, IMAGE, MESSAGE, refuse_unsupported
from diptych.core.errors import InvalidRequest
from diptych.core.specs import ChatSpec, CompletionSpec, ImageSpec, Sampling

COMPLETION_TOKENS = 16
"""OpenAI's limit of a completion that asks for none."""
ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
UNBUILT_ROLES = ("tool", "function")
MAX_STOPS, MAX_STOP = 16, 1000
Kind = TypeVar("Kind", bound=BaseModel)
_SIZE = re.compile(r"([0-9]{1,5})x([0-9]{1,5})")
IMAGE_NAMES = {"count": "n", "width": "size", "height": "size"}
"""Fields of a spec, and what OpenAI's clients call them."""


def chat_spec(body: ChatRequest) -> ChatSpec:
    """Raises InvalidRequest."""
    refuse_unsupported(body, CHAT)
    limit = _same(body, "max_completion_tokens", "max_tokens")
    messages = [_message(message, f"messages[{index}]") for index, message in enumerate(body.messages)]
    return _checked(ChatSpec, model=body.model, messages=messages, sampling=_sampling(body, limit))


def completion_spec(body: CompletionRequest) -> CompletionSpec:
    """Raises InvalidRequest."""
    refuse_unsupported(body, COMPLETION)
    sampling = _sampling(body, body.max_tokens or COMPLETION_TOKENS)
    return _checked(CompletionSpec, model=body.model, prompt=_prompt(body.prompt), sampling=sampling)


def picture_spec(body: ImageRequest) -> ImageSpec:
    """Raises InvalidRequest."""
    refuse_unsupported(body, IMAGE)
    if body.response_format not in (None, "url", "b64_json"):
        raise InvalidRequest(
            f"response_format is {shown(body.response_format)}, not url or b64_json", param="response_format")
    if body.partial_images and not body.stream:
        raise InvalidRequest("partial_images needs stream: true", param="partial_images")
    width, height = _size(body.size)
    names = ("model", "prompt", "negative_prompt", "steps", "guidance", "sampler", "schedule", "seed")
    values = {name: value for name in names if (value := getattr(body, name)) is not None}
    spec = image_spec({**values, "count": body.n or 1, "width": width, "height": height}, IMAGE_NAMES)
    if not body.partial_images:
        return spec
    return spec.model_copy(update={"preview_every": max(1, spec.steps // (body.partial_images + 1))})


def include_usage(body: SamplingFields) -> bool:
    """Raises InvalidRequest for stream options of a request that is not streamed."""
    if body.stream_options is None:
        return False
    if not body.stream:
        raise InvalidRequest("stream_options needs stream: true", param="stream_options")
    return bool(body.stream_options.include_usage)


def _message(message: ChatMessage, where: str) -> dict[str, str]:
    if message.role in UNBUILT_ROLES:
        raise not_supported(f"{where}.role", shown(message.role))
    if message.role not in ROLES:
        raise InvalidRequest(
            f"{where}.role is {shown(message.role)}, not one of {', '.join(ROLES)}", param=f"{where}.role")
    refuse_unsupported(message, MESSAGE, f"{where}.")
    return {"role": ROLES[message.role], "content": _content(message.content, f"{where}.content")}


def _content(content: Any, where: str) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise InvalidRequest(f"{where} must be text or a list of text parts, not {shown(content)}", param=where)
    return "".join(_part(part, f"{where}[{index}]") for index, part in enumerate(content))


def _part(part: Any, where: str) -> str:
    if not isinstance(part, dict):
        raise InvalidRequest(f"{where} must be an object with type and text, not {shown(part)}", param=where)
    kind, text = part.get("type"), part.get("text")
    if kind != "text":
        if isinstance(kind, str):
            raise not_supported(f"{where}.type", f"content of type {shown(kind)}")
        raise InvalidRequest(f"{where}.type must be text, not {shown(kind)}", param=f"{where}.type")
    if not isinstance(text, str):
        raise InvalidRequest(f"{where}.text must be text, not {shown(text)}", param=f"{where}.text")
    return text


def _prompt(prompt: Any) -> str:
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], str):
        prompt = prompt[0]
    if isinstance(prompt, list) and prompt and all(isinstance(item, str) for item in prompt):
        raise not_supported("prompt", f"a list of {len(prompt)} prompts")
    if isinstance(prompt, list) and prompt:
        raise not_supported("prompt", "a list of tokens")
    if not isinstance(prompt, str) or not prompt:
        raise InvalidRequest(f"prompt must be text that is not empty, not {shown(prompt)}", param="prompt")
    return prompt


def _sampling(body: SamplingFields, max_tokens: int | None) -> Sampling:
    names = ("temperature", "top_p", "top_k", "min_p", "frequency_penalty", "presence_penalty", "seed")
    values: dict[str, Any] = {name: value for name in names if (value := getattr(body, name)) is not None}
    penalty = _same(body, "repeat_penalty", "repetition_penalty")
    if penalty is not None:
        values["repeat_penalty"] = penalty
    return _checked(Sampling, **values, max_tokens=max_tokens, stop=_stop(body.stop))


def _stop(stop: Any) -> tuple[str, ...]:
    if stop is None:
        return ()
    stops = [stop] if isinstance(stop, str) else stop
    if not isinstance(stops, list) or len(stops) > MAX_STOPS:
        raise InvalidRequest(
            f"stop must be text or a list of at most {MAX_STOPS} texts, not {shown(stop)}", param="stop")
    for index, text in enumerate(stops):
        if not isinstance(text, str) or not 1 <= len(text) <= MAX_STOP:
            where = "stop" if isinstance(stop, str) else path_of(("stop", index))
            raise InvalidRequest(f"{where} must have 1 to {MAX_STOP} characters, not {shown(text)}", param=where)
    return tuple(stops)


def _same(body: SamplingFields, first: str, second: str) -> Any:
    """The value of a field that has two names. Raises InvalidRequest when both are there and differ."""
    one, other = getattr(body, first), getattr(body, second)
    if one is not None and other is not None and one != other:
        raise InvalidRequest(f"{first} is {one} and {second} is {other}; give one of them", param=second)
    return other if one is None else one


def _size(size: str | None) -> tuple[int | None, int | None]:
    if size is None or size == "auto":
        return None, None
    found = _SIZE.fullmatch(size)
    if found is None:
        raise InvalidRequest(f"size is {shown(size)}, not WIDTHxHEIGHT in pixels or auto", param="size")
    return int(found[1]), int(found[2])


def _checked(kind: type[Kind], **values: Any) -> Kind:
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise refusal(error) from None
