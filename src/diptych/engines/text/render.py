"""From a spec to the prompt that an engine gets: token ids, or for llama.cpp text and pictures."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from diptych.core.chat import Message
from diptych.core.errors import InvalidRequest
from diptych.core.specs import ChatSpec, CompletionSpec, ScoreSpec
from diptych.engines.text.conversation import (
    fitting,
    merged,
    repaired,
    system_into_user,
    with_mistral_ids,
)
from diptych.engines.text.prompting import PromptModel

ANSWER_TOKENS = 1024
"""Room for an answer of unknown length, when turns are left out to make room."""
FIM_NAMES = (
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"), ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
    ("<fim-prefix>", "<fim-suffix>", "<fim-middle>"), ("▁<PRE>", "▁<SUF>", "▁<MID>"),
    ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),
)
"""Control tokens for filling a gap, as model families name them: before, after, and where the filling begins."""


@dataclass(frozen=True)
class Prompt:
    """`tokens` is all of it, or of a prompt with pictures its text, where each of `images` (base64) is a marker in
    `text`. `left_out` counts messages that did not fit."""

    tokens: tuple[int, ...]
    text: str = ""
    images: tuple[str, ...] = ()
    left_out: int = 0

    @property
    def value(self) -> list[int] | dict[str, Any]:
        """The field `prompt` of a request to llama.cpp."""
        if self.images:
            return {"prompt_string": self.text, "multimodal_data": list(self.images)}
        return list(self.tokens)


class Renderer:
    """Prompts of one model. Safe from any thread."""

    def __init__(self, loaded: PromptModel) -> None:
        self._loaded = loaded

    def chat(self, spec: ChatSpec, image_tokens: float = 0.0) -> Prompt:
        """The prompt of a conversation; with `truncation: auto` without the oldest turns, if it would not fit.

        Args:
            image_tokens: what a picture takes of the context, as far as known.

        Raises:
            InvalidRequest: the template or mistral-common refuses it, or it holds what this model cannot take.
        """
        self._check(spec)
        messages = self._prepared(spec.messages)
        options = self._options(spec)
        if spec.truncation == "disabled":
            return self._render(messages, spec, options)
        context = self._loaded.options.context
        room = context - min(spec.sampling.max_tokens or ANSWER_TOKENS, context // 4)

        def fits(kept: tuple[Message, ...]) -> bool:
            prompt = self._render(kept, spec, options)
            return len(prompt.tokens) + image_tokens * len(prompt.images) <= room

        found = fitting(messages, fits)
        if found is None:
            last, left_out = fitting(messages, _only_last(messages)) or (messages, 0)
        else:
            last, left_out = found
        prompt = self._render(last, spec, options)
        return Prompt(prompt.tokens, prompt.text, prompt.images, left_out)

    def score(self, spec: ScoreSpec) -> Prompt:
        """The prompt whose continuations are scored."""
        return self.chat(ChatSpec(model=spec.model, messages=spec.messages))

    def completion(self, spec: CompletionSpec) -> Prompt:
        """The prompt of a completion as it stands, or of a gap to fill.

        Raises:
            InvalidRequest: the prompt is empty, has ids that are no tokens, or the model cannot fill gaps.
        """
        if not spec.prompt and not spec.suffix:
            raise InvalidRequest("prompt is empty: there is nothing to continue", param="prompt")
        if spec.suffix is not None:
            return Prompt(tuple(self._infill(spec.prompt, spec.suffix)))
        if isinstance(spec.prompt, str):
            return Prompt(tuple(self._loaded.listener.tokens(spec.prompt, begin=True)))
        self._check_ids(spec.prompt)
        return Prompt(spec.prompt)

    def text_of(self, prompt: str | tuple[int, ...]) -> str:
        """A prompt of a completion as text."""
        return prompt if isinstance(prompt, str) else self._loaded.listener.text(list(prompt))

    def _check(self, spec: ChatSpec) -> None:
        card = self._loaded.card
        if any(message.images for message in spec.messages) and not (card.projector or card.vision):
            why = ": there is no mmproj*.gguf beside its file" if card.format == "gguf" else ""
            raise InvalidRequest(f"model {card.id!r} cannot see pictures{why}", param="messages")
        for index, message in enumerate(spec.messages):
            if message.prefix and (message.role != "assistant" or index + 1 < len(spec.messages)):
                raise InvalidRequest(
                    f"messages[{index}].prefix is true, but only the last message, of the assistant, can be continued",
                    param=f"messages[{index}].prefix")
            if message.images and message.role != "user":
                raise InvalidRequest(
                    f"messages[{index}] is of role {message.role!r} and has a picture; only the user's can",
                    param=f"messages[{index}].content")

    def _options(self, spec: ChatSpec) -> dict[str, Any]:
        """Variables for the template. Raises InvalidRequest for what it does not know."""
        options, template = dict(spec.template_options), self._loaded.template
        if self._loaded.mistral is not None and options:
            raise InvalidRequest(
                "template_options are for chat templates; prompts of this model are made by mistral-common, without "
                f"options: {', '.join(options)}", param="template_options")
        effort = spec.reasoning_effort
        if effort is None:
            return options
        known = self._loaded.mistral is None and any(
            word in template for word in ("enable_thinking", "reasoning_effort"))
        if not known and effort != "none":
            raise InvalidRequest(
                f"reasoning_effort is {effort!r}, but the chat template of {self._loaded.card.id!r} knows no "
                "reasoning; leave it out or use a reasoning model", param="reasoning_effort")
        return {"reasoning_effort": effort, "enable_thinking": effort != "none", **options} if known else options

    def _prepared(self, messages: Sequence[Message]) -> tuple[Message, ...]:
        done = repaired(messages)
        return with_mistral_ids(done) if self._mistral_ids else done

    @property
    def _mistral_ids(self) -> bool:
        return self._loaded.mistral is not None or self._loaded.card.dialect == "mistral"

    def _render(self, messages: tuple[Message, ...], spec: ChatSpec, options: dict[str, Any]) -> Prompt:
        images = tuple(image.data for message in messages for image in message.images)
        if self._loaded.mistral is not None:
            tokens = self._loaded.mistral.chat(messages, spec.tools)
            text = self._loaded.mistral.text(tokens, self._loaded.marker) if images else ""
            return Prompt(tuple(tokens), text, images)
        text = self._template(messages, spec, options)
        return Prompt(tuple(self._loaded.listener.tokens(text, begin=True)), text, images)

    def _template(self, messages: tuple[Message, ...], spec: ChatSpec, options: dict[str, Any]) -> str:
        """The text that the template makes; a conversation it refuses is tried in the forms that most accept."""
        continued = messages[-1].text if messages[-1].prefix else ""
        body: dict[str, Any] = {"chat_template_kwargs": options, "add_generation_prompt": True}
        if spec.tools and self._loaded.card.tools:
            body["tools"] = [_tool_body(tool) for tool in spec.tools]
        first: InvalidRequest | None = None
        forms: tuple[Callable[[tuple[Message, ...]], tuple[Message, ...]], ...] = (
            tuple, merged, lambda kept: merged(system_into_user(kept)))
        for form in forms:
            shaped = form(messages[:-1] if messages[-1].prefix else messages)
            try:
                given = [message.body(self._content(message)) for message in shaped]
                return self._loaded.listener.prompt({**body, "messages": given}) + continued
            except InvalidRequest as error:
                first = first or error
        assert first is not None
        raise first

    def _content(self, message: Message) -> str:
        if isinstance(message.content, str):
            return message.content
        return "".join(
            part.text if part.type == "text" else self._loaded.marker for part in message.content)

    def _infill(self, prompt: str | tuple[int, ...], suffix: str) -> list[int]:
        loaded = self._loaded
        if loaded.mistral is not None:
            return loaded.mistral.infill(self.text_of(prompt), suffix)
        names = next((names for names in FIM_NAMES if all(name in loaded.vocabulary.ids for name in names)), None)
        fim = dict(zip(("pre", "suf", "mid"), names, strict=True)) if names else {}
        ids = loaded.vocabulary.fim or {key: loaded.vocabulary.ids[name] for key, name in fim.items()}
        if len(ids) < 3:
            raise InvalidRequest(
                f"suffix: model {loaded.card.id!r} has no tokens for filling a gap; use a model for code, or no suffix",
                param="suffix", code="unsupported_value")
        before = list(prompt) if isinstance(prompt, tuple) else loaded.listener.tokens(prompt, special=False)
        after = loaded.listener.tokens(suffix, special=False)
        return [*loaded.listener.tokens("", begin=True), ids["pre"], *before, ids["suf"], *after, ids["mid"]]

    def _check_ids(self, tokens: Sequence[int]) -> None:
        count = len(self._loaded.vocabulary)
        wrong = next((token for token in tokens if not 0 <= token < count), None)
        if wrong is not None:
            raise InvalidRequest(f"prompt has the token id {wrong}, but this model's go from 0 to {count - 1}",
                                 param="prompt")


def _tool_body(tool: Any) -> dict[str, Any]:
    return {"type": "function", "function": {
        "name": tool.name, "description": tool.description, "parameters": json.loads(json.dumps(tool.parameters))}}


def _only_last(messages: Sequence[Message]) -> Callable[[tuple[Message, ...]], bool]:
    """True for a conversation with no more than its last turn."""
    users = sum(message.role == "user" for message in messages)
    return lambda kept: sum(message.role == "user" for message in kept) <= min(1, users)
