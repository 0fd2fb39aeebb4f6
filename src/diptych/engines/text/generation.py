"""Answers in text: from a spec to llama.cpp's stream."""

from __future__ import annotations

from typing import Any

from diptych.core.errors import InvalidRequest
from diptych.core.specs import ChatSpec, CompletionSpec
from diptych.engines.text.answer import Answer, over_context
from diptych.engines.text.biases import token_biases
from diptych.engines.text.loaded import Loaded
from diptych.engines.text.payload import sampling_body
from diptych.engines.text.render import Prompt, Renderer

FITS = 4
"""Times that turns are left out again, when pictures turn out larger than thought."""


class Generation:
    """Runs of chat and completion on one model. Safe from any thread."""

    def __init__(self, loaded: Loaded) -> None:
        self._loaded = loaded
        self._renderer = Renderer(loaded)

    def chat(self, spec: ChatSpec, answer: Answer) -> None:
        """Answer a conversation; blocks. Raises DiptychError for what is refused before it begins."""
        image_tokens = 0.0
        for _ in range(FITS):
            prompt = self._renderer.chat(spec, image_tokens)
            if prompt.left_out:
                answer.note(left_out_messages=float(prompt.left_out))
            answer.refused = None
            self._run(spec, prompt, answer)
            refused: dict[str, Any] = answer.refused or {}
            if not prompt.images or spec.truncation == "disabled" or "n_prompt_tokens" not in refused:
                return
            image_tokens = max(image_tokens + 1, (refused["n_prompt_tokens"] - len(prompt.tokens)) / len(prompt.images))

    def completion(self, spec: CompletionSpec, answer: Answer) -> None:
        """Continue a text; blocks. Raises DiptychError for what is refused before it begins."""
        if spec.echo and spec.sampling.logprobs is not None:
            raise InvalidRequest("echo with logprobs is not supported: probabilities of the prompt are not computed; "
                                 "leave out one of the two", param="echo", code="unsupported_value")
        prompt = self._renderer.completion(spec)
        if spec.echo and len(prompt.tokens) < self._loaded.options.context:
            answer.tell(self._renderer.text_of(spec.prompt))
        self._run(spec, prompt, answer)

    def _run(self, spec: ChatSpec | CompletionSpec, prompt: Prompt, answer: Answer) -> None:
        limit = self._loaded.options.context
        if not prompt.images and len(prompt.tokens) >= limit:
            answer.fail_later(over_context(len(prompt.tokens), limit, answer.param))
            return
        body = self._body(spec)
        if spec.sampling.min_tokens:
            prompt = self._first_tokens(spec, prompt, body, answer)
            if answer.failed or answer.cancelled or answer.ended:
                return
        self._loaded.complete({**body, "prompt": prompt.value}, answer.take)

    def _first_tokens(
        self, spec: ChatSpec | CompletionSpec, prompt: Prompt, body: dict[str, Any], answer: Answer,
    ) -> Prompt:
        """Make the first `min_tokens` tokens, among which the answer cannot end; the rest goes on from them."""
        sampling = spec.sampling
        least = min(sampling.min_tokens, sampling.max_tokens or sampling.min_tokens)
        if spec.grammar is not None or prompt.images:
            raise InvalidRequest(
                f"min_tokens is {sampling.min_tokens}, which cannot be kept together with "
                + ("a grammar: that decides where the answer ends" if spec.grammar is not None else "pictures"),
                param="min_tokens", code="unsupported_value")
        first = {**body, "ignore_eos": True, "max_tokens": least, "n_probs": max(1, body.get("n_probs", 0))}
        self._loaded.complete({**first, "prompt": prompt.value}, answer.take)
        if answer.ended == "length" and least < (sampling.max_tokens or least + 1):
            answer.again()
            if sampling.max_tokens is not None:
                body["max_tokens"] = sampling.max_tokens - least
        made = answer.tokens
        if len(made) != least:  # llama.cpp tells no ids in the middle of a character: go on from what was told
            made = self._loaded.listener.tokens(answer.text, special=False)
        return Prompt((*prompt.tokens, *made))

    def _body(self, spec: ChatSpec | CompletionSpec) -> dict[str, Any]:
        loaded = self._loaded
        body = sampling_body(spec.sampling, loaded.options.context, token_biases(loaded, spec.sampling))
        body["preserved_tokens"] = loaded.marks
        if spec.grammar is not None:
            body["grammar"] = loaded.grammars.prepared(spec.grammar)
        if loaded.card.adapters or spec.adapters:
            body["lora"] = self._adapters(spec)
        return body

    def _adapters(self, spec: ChatSpec | CompletionSpec) -> list[dict[str, float]]:
        ids, weights = self._loaded.adapter_ids, {adapter.id: adapter.weight for adapter in spec.adapters}
        unknown = next((id for id in weights if id not in ids), None)
        if unknown is not None:
            known = ", ".join(ids) or "none (put *lora*.gguf beside the model's file)"
            raise InvalidRequest(
                f"adapters: model {self._loaded.card.id!r} has no adapter {unknown!r}; there are: {known}",
                param="adapters")
        return [{"id": number, "scale": weights.get(id, 0.0)} for number, id in enumerate(ids)]
