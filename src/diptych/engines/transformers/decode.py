"""Answers in text, token by token. Work is a generator: it yields the steps that it needs, and gets logits for them."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import llguidance
import llguidance.numpy
import numpy as np

from diptych.core.chat import TokenProbability
from diptych.core.errors import InvalidRequest, Unavailable
from diptych.core.specs import ChatSpec, CompletionSpec, Sampling, TextSpec
from diptych.engines.text.answer import LOWEST, over_context
from diptych.engines.text.biases import token_biases
from diptych.engines.text.marks import MARKS
from diptych.engines.text.render import Prompt
from diptych.engines.transformers.answer import Answer
from diptych.engines.transformers.loaded import Loaded
from diptych.engines.transformers.lora import Weights
from diptych.engines.transformers.prompts import Prompts
from diptych.engines.transformers.sampler import Chooser, Logits, log_softmax
from diptych.engines.transformers.states import States
from diptych.engines.transformers.steps import State, Step, Values

Work = Generator["Step | Callable[[], Any]", Any, None]
"""What is yielded is either a step of the model or something else to compute; the answer to it is sent in."""


class Decoder:
    """Chat and completion on one model. Specs are read in any thread; the work belongs to the one that computes."""

    def __init__(self, loaded: Loaded, states: States) -> None:
        self._loaded, self._states = loaded, states
        self._prompts = Prompts(loaded)
        ids = loaded.vocabulary.ids
        self._silent = frozenset(loaded.vocabulary.special) - {ids[mark] for mark in MARKS if mark in ids}
        self._unused = np.array([id for id, token in enumerate(loaded.vocabulary.tokens)
                                 if token == f"<unused-{id}>"], dtype=np.int64)

    def chat(self, spec: ChatSpec, answer: Answer) -> Work:
        """Answer a conversation. Raises DiptychError for what is refused."""
        prompt = self._prompts.chat(spec)
        if prompt.left_out:
            answer.note(left_out_messages=float(prompt.left_out))
        return self._plan(spec, prompt, answer)

    def completion(self, spec: CompletionSpec, answer: Answer) -> Work:
        """Continue a text. Raises DiptychError for what is refused."""
        if spec.echo and spec.sampling.logprobs is not None:
            raise InvalidRequest("echo with logprobs is not supported: probabilities of the prompt are not computed; "
                                 "leave out one of the two", param="echo", code="unsupported_value")
        return self._plan(spec, self._prompts.completion(spec), answer,
                          self._prompts.text_of(spec.prompt) if spec.echo else "")

    def _plan(self, spec: TextSpec, prompt: Prompt, answer: Answer, echo: str = "") -> Work:
        sampling, limit = spec.sampling, self._loaded.options.context
        if len(prompt.tokens) >= limit:
            failed = over_context(len(prompt.tokens), limit, answer.param)
            raise InvalidRequest(failed.message, param=failed.param, code=failed.code)
        if sampling.min_tokens and spec.grammar is not None:
            raise InvalidRequest(
                f"min_tokens is {sampling.min_tokens}, which cannot be kept together with a grammar: that decides "
                "where the answer ends", param="min_tokens", code="unsupported_value")
        chooser = Chooser(sampling, token_biases(self._loaded, sampling), self._loaded.vocabulary.bytes_of)
        matcher = None if spec.grammar is None else self._loaded.grammars.matcher(spec.grammar)
        weights = self._weights(spec)
        pictures = self._prompts.pixels(prompt)
        return self._run(sampling, prompt, pictures, weights, chooser, matcher, answer, echo)

    def _weights(self, spec: TextSpec) -> Weights:
        known, weights = [file.id for file in self._loaded.card.adapters], {a.id: a.weight for a in spec.adapters}
        unknown = next((id for id in weights if id not in known), None)
        if unknown is not None:
            there = ", ".join(known) or "none (put folders with adapter_config.json into the model's folder)"
            raise InvalidRequest(
                f"adapters: model {self._loaded.card.id!r} has no adapter {unknown!r}; there are: {there}",
                param="adapters")
        return tuple(sorted((id, weight) for id, weight in weights.items() if weight))

    def _run(
        self, sampling: Sampling, prompt: Prompt, pictures: tuple[Values, ...], weights: Weights, chooser: Chooser,
        matcher: llguidance.LLMatcher | None, answer: Answer, echo: str,
    ) -> Work:
        answer.tell(echo)
        state, known = self._states.take(prompt.tokens, weights, bool(pictures))
        answer.prompt_tokens, answer.cached_tokens = len(prompt.tokens), known
        try:
            logits = yield from self._read(state, prompt.tokens[known:], pictures)
            room = self._loaded.options.context - len(prompt.tokens)
            most = min(sampling.max_tokens or room, room)
            while True:
                id = self._choose(logits, sampling, chooser, matcher, state, answer)
                ended = id in self._loaded.ends and not sampling.ignore_eos
                if ended or (matcher is not None and self._follow(matcher, id)):
                    self._tell(id, logits, sampling, answer, silent=ended)
                    answer.reason = "stop"
                    return
                self._tell(id, logits, sampling, answer)
                if answer.stopped:
                    return
                if answer.completion_tokens >= most:
                    answer.reason = "length"
                    return
                logits = yield Step(state, (id,))
        finally:
            self._states.give_back(state)

    def _read(
        self, state: State, tokens: tuple[int, ...], pictures: tuple[Values, ...],
    ) -> Generator[Step, Values, Values]:
        """The logits after a prompt, read piece by piece; one with pictures is read at once."""
        if pictures:
            return (yield Step(state, tokens, pictures=pictures))
        size = self._loaded.options.batch
        logits: Values | None = None
        for at in range(0, len(tokens), size):
            logits = yield Step(state, tokens[at:at + size])
        assert logits is not None
        return logits

    def _choose(
        self, logits: Values, sampling: Sampling, chooser: Chooser, matcher: llguidance.LLMatcher | None,
        state: State, answer: Answer,
    ) -> int:
        values: Logits = logits.astype(np.float64)
        values[self._unused] = -np.inf
        if matcher is not None:
            self._hold(values, matcher)
        ends = self._loaded.ends if matcher is None and (
            sampling.ignore_eos or answer.completion_tokens < sampling.min_tokens) else ()
        return chooser.choose(values, state.tokens, tuple(ends))

    def _hold(self, values: Logits, matcher: llguidance.LLMatcher) -> None:
        """Leave only tokens that the grammar allows. Raises Unavailable rather than let anything else pass."""
        size = len(self._loaded.vocabulary)
        mask = llguidance.numpy.allocate_token_bitmask(1, size)
        llguidance.numpy.fill_next_token_bitmask(matcher, mask)
        if matcher.is_error():
            raise Unavailable(f"the grammar cannot be followed: {matcher.get_error()[:300]}", code="grammar_failed")
        allowed = np.unpackbits(mask[0].view(np.uint8), bitorder="little")[:len(values)].astype(bool)
        eos = self._loaded.vocabulary.eos
        if eos is not None and eos < len(allowed) and allowed[eos]:
            allowed[list(self._loaded.ends)] = True
        values[:len(allowed)][~allowed] = -np.inf
        if not np.isfinite(values).any():
            raise Unavailable("the grammar leaves no token of this model", code="grammar_failed")

    def _follow(self, matcher: llguidance.LLMatcher, id: int) -> bool:
        """Whether the grammar ends with this token."""
        if not matcher.consume_token(id):
            raise Unavailable(f"the grammar cannot be followed: {matcher.get_error()[:300]}", code="grammar_failed")
        return bool(matcher.is_stopped())

    def _tell(
        self, id: int, logits: Values, sampling: Sampling, answer: Answer, *, silent: bool = False,
    ) -> None:
        probabilities = () if sampling.logprobs is None or silent else (self._probability(id, logits, sampling),)
        data = b"" if silent or id in self._silent else self._loaded.vocabulary.bytes_of(id)
        answer.token(data, probabilities)

    def _probability(self, id: int, logits: Values, sampling: Sampling) -> TokenProbability:
        """Of the model itself: before bias, penalties, grammar and temperature."""
        logs, count = log_softmax(logits.astype(np.float64)), sampling.logprobs or 0
        likeliest = np.argpartition(logs, -count)[-count:] if count else ()
        top = sorted(likeliest, key=lambda other: -logs[other])
        return self._token(id, logs[id], tuple(self._token(int(other), logs[other]) for other in top))

    def _token(self, id: int, logprob: float, top: tuple[TokenProbability, ...] = ()) -> TokenProbability:
        data = self._loaded.vocabulary.bytes_of(id)
        return TokenProbability(token=data.decode("utf-8", errors="replace"), logprob=max(LOWEST, float(logprob)),
                                bytes=tuple(data), top=top)
