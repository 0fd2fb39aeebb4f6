"""From OpenAI's requests to specs."""

from __future__ import annotations

import re
from typing import Any

from diptych.api.errors import shown
from diptych.api.native.convert import image_spec
from diptych.api.openai.checked import checked, same
from diptych.api.openai.messages import SAFE_PROMPT, messages_of
from diptych.api.openai.pictures import Pictures
from diptych.api.openai.sampling import adapters_of, sampling_of, truncation_of
from diptych.api.openai.schema import ChatRequest, CompletionRequest, ImageRequest, SamplingFields
from diptych.api.openai.tools import chat_tools, format_of
from diptych.api.openai.unsupported import CHAT, COMPLETION, IMAGE, Neutral, refuse_unsupported
from diptych.core.chat import Message
from diptych.core.errors import InvalidRequest
from diptych.core.specs import ChatSpec, CompletionSpec, ImageSpec

COMPLETION_TOKENS = 16
"""OpenAI's limit of a completion that asks for none."""
MAX_PROMPTS = 128
EFFORTS = ("none", "minimal", "low", "medium", "high")
_SIZE = re.compile(r"([0-9]{1,5})x([0-9]{1,5})")
IMAGE_NAMES = {"count": "n", "width": "size", "height": "size"}
"""Fields of a spec, and what OpenAI's clients call them."""


def chat_spec(body: ChatRequest, pictures: Pictures) -> ChatSpec:
    """Blocks where there are pictures. Raises InvalidRequest, and what `Pictures` does."""
    refuse_unsupported(body, CHAT)
    choice, tools = chat_tools(body)
    messages = messages_of(body.messages, pictures)
    if body.safe_prompt:
        messages = with_instruction(messages, SAFE_PROMPT)
    if body.continue_final_message:
        messages = _continued(messages)
    logprobs = _chat_logprobs(body)
    return checked(
        ChatSpec, model=body.model, messages=messages, tools=tools, tool_choice=choice,
        sampling=sampling_of(body, same(body, "max_completion_tokens", "max_tokens"), logprobs),
        parallel_tool_calls=body.parallel_tool_calls is not False and not body.functions, format=format_of(body),
        reasoning_effort=effort_of(body.reasoning_effort, "reasoning_effort"),
        template_options=body.chat_template_kwargs or {}, adapters=adapters_of(body), **truncation_of(body.truncation))


def completion_specs(body: CompletionRequest) -> list[CompletionSpec]:
    """One for each prompt. Raises InvalidRequest."""
    refuse_unsupported(body, COMPLETION)
    if body.echo and body.logprobs is not None:
        raise InvalidRequest("echo with logprobs: the prompt's own probabilities are not supported yet", param="echo",
                             code="not_supported")
    if body.echo and body.suffix:
        raise InvalidRequest("echo cannot be used together with suffix", param="echo")
    logprobs = body.logprobs
    if (body.best_of or 1) > 1 and logprobs is None:
        logprobs = 0  # the likeliest is told by them
    limit = body.max_tokens or COMPLETION_TOKENS
    sampling = sampling_of(body, limit, logprobs)
    common: dict[str, Any] = {"suffix": body.suffix or None, "echo": bool(body.echo), "format": format_of(body),
                              "adapters": adapters_of(body), **truncation_of(body.truncation)}
    return [checked(CompletionSpec, model=body.model, prompt=prompt, sampling=sampling, **common)
            for prompt in prompts_of(body.prompt)]


def answers_of(body: SamplingFields, best_of: int | None = None) -> int:
    """How many answers are made for each prompt. Raises InvalidRequest."""
    count = body.n or 1
    if best_of is None:
        return count
    if best_of < count:
        raise InvalidRequest(f"best_of is {best_of}, less than n, which is {count}", param="best_of")
    if best_of > count and body.stream:
        raise InvalidRequest("best_of cannot be streamed: the best is known at the end", param="best_of")
    return best_of


def picture_spec(
    body: ImageRequest, more: dict[str, Any] | None = None, unsupported: dict[str, Neutral] = IMAGE,
    called: dict[str, str] = IMAGE_NAMES,
) -> ImageSpec:
    """The spec of a request for pictures.

    Args:
        more: values of the spec that do not stand in `body`.
        called: what the client calls a field of the spec, where that differs.

    Raises:
        InvalidRequest: names the field.
    """
    refuse_unsupported(body, unsupported)
    if body.response_format not in (None, "url", "b64_json"):
        raise InvalidRequest(
            f"response_format is {shown(body.response_format)}, not url or b64_json", param="response_format")
    if body.partial_images and not body.stream:
        raise InvalidRequest("partial_images needs stream: true", param="partial_images")
    width, height = _size(body.size)
    names = ("model", "prompt", "negative_prompt", "steps", "guidance", "sampler", "schedule", "seed",
             "clip_skip", "styles", "prompt_syntax")
    values = {name: value for name in names if (value := getattr(body, name)) is not None}
    values |= {"count": body.n or 1, "width": width, "height": height}
    spec = image_spec({**(more or {}), **values}, called)
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


def effort_of(value: str | None, name: str) -> Any:
    if value is not None and value not in EFFORTS:
        raise InvalidRequest(f"{name} is {shown(value)}, not one of {', '.join(EFFORTS)}", param=name)
    return value


def with_instruction(messages: list[Message], text: str) -> list[Message]:
    """The conversation with `text` at the beginning of its system message."""
    if messages[0].role == "system":
        first = messages[0].model_copy(update={"content": f"{text}\n\n{messages[0].text}"})
        return [first, *messages[1:]]
    return [Message(role="system", content=text), *messages]


def prompts_of(prompt: Any) -> list[str | tuple[int, ...]]:
    """A text, texts, tokens, or lists of tokens. Raises InvalidRequest."""
    if _is_prompt(prompt):
        return [tuple(prompt) if isinstance(prompt, list) else prompt]
    if not isinstance(prompt, list) or not prompt:
        raise InvalidRequest(
            f"prompt must be text, a list of texts, or token ids, and not empty, not {shown(prompt)}", param="prompt")
    if len(prompt) > MAX_PROMPTS:
        raise InvalidRequest(f"prompt has {len(prompt)} entries, at most {MAX_PROMPTS} are taken", param="prompt")
    for index, one in enumerate(prompt):
        if not _is_prompt(one):
            raise InvalidRequest(
                f"prompt[{index}] must be text or token ids, and not empty, not {shown(one)}", param=f"prompt[{index}]")
    return [tuple(one) if isinstance(one, list) else one for one in prompt]


def _is_prompt(value: Any) -> bool:
    if isinstance(value, str):
        return bool(value)
    return isinstance(value, list) and bool(value) and all(
        isinstance(item, int) and not isinstance(item, bool) and 0 <= item < 2**31 for item in value)


def _continued(messages: list[Message]) -> list[Message]:
    if messages[-1].role != "assistant":
        raise InvalidRequest("continue_final_message needs a last message of the assistant",
                             param="continue_final_message")
    return [*messages[:-1], messages[-1].model_copy(update={"prefix": True})]


def _chat_logprobs(body: ChatRequest) -> int | None:
    if body.top_logprobs and not body.logprobs:
        raise InvalidRequest("top_logprobs needs logprobs: true", param="top_logprobs")
    return (body.top_logprobs or 0) if body.logprobs else None


def _size(size: str | None) -> tuple[int | None, int | None]:
    if size is None or size == "auto":
        return None, None
    found = _SIZE.fullmatch(size)
    if found is None:
        raise InvalidRequest(f"size is {shown(size)}, not WIDTHxHEIGHT in pixels or auto", param="size")
    return int(found[1]), int(found[2])
