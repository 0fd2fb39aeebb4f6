"""Vectors, relevance and likelihoods: work that makes no text."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from diptych.core.errors import InvalidRequest
from diptych.core.specs import EmbedSpec, RerankSpec, ScoreSpec
from diptych.engines.text.answer import over_context
from diptych.engines.text.options import vectors_only
from diptych.engines.transformers.answer import Answer
from diptych.engines.transformers.decode import Work
from diptych.engines.transformers.loaded import Loaded
from diptych.engines.transformers.prompts import Prompts
from diptych.engines.transformers.sampler import log_softmax
from diptych.engines.transformers.states import States
from diptych.engines.transformers.steps import Step, Values

POOLINGS = {"pooling_mode_cls_token": "cls", "pooling_mode_mean_tokens": "mean", "pooling_mode_lasttoken": "last"}
POOLING_FILE = "1_Pooling/config.json"


class Measures:
    """Specs are read in any thread; the work belongs to the one that computes."""

    def __init__(self, loaded: Loaded, states: States) -> None:
        self._loaded, self._states = loaded, states
        self._prompts = Prompts(loaded)
        self._pooling = _pooling(loaded)
        # The part of a chat model below its head.
        self._body = loaded.model if vectors_only(loaded.card) else loaded.model.base_model

    def embed(self, spec: EmbedSpec, answer: Answer) -> Work:
        """One vector for each input, pooled as the folder's 1_Pooling says, else the mean of the last states."""
        if "embed" not in self._loaded.card.tasks:
            raise InvalidRequest(f"model {self._loaded.card.id!r} makes no vectors", param="model",
                                 code="unsupported_value")
        inputs = [self._input(given, index) for index, given in enumerate(spec.inputs)]
        return self._embed(inputs, spec.normalize, answer)

    def _embed(self, inputs: list[list[int]], normalize: bool, answer: Answer) -> Work:
        vectors = []
        for tokens in inputs:
            vectors.append((yield partial(self._vector, tokens, normalize)))
        answer.result({"vectors": vectors}, sum(len(tokens) for tokens in inputs))

    def rerank(self, spec: RerankSpec, answer: Answer) -> Work:
        """The score that a cross-encoder gives each document."""
        card = self._loaded.card
        if "rerank" not in card.tasks:
            raise InvalidRequest(f"model {card.id!r} is no reranker", param="model", code="unsupported_value")
        pairs = [self._loaded.listener.whole(spec.query, document) for document in spec.documents]
        for index, (tokens, _) in enumerate(pairs):
            self._check_length(len(tokens), f"documents[{index}]")
        return self._rerank(pairs, answer)

    def _rerank(self, pairs: list[tuple[list[int], list[int]]], answer: Answer) -> Work:
        scores = []
        for tokens, types in pairs:
            scores.append((yield partial(self._relevance, tokens, types)))
        answer.result({"scores": scores}, sum(len(tokens) for tokens, _ in pairs))

    def score(self, spec: ScoreSpec, answer: Answer) -> Work:
        """The log-likelihood of each option after the conversation, exactly: from the logits at each of its tokens."""
        prompt = self._prompts.score(spec)
        if prompt.images:
            raise InvalidRequest("options are not scored after pictures", param="messages", code="unsupported_value")
        options = [self._loaded.listener.tokens(option, special=False) for option in spec.options]
        for index, tokens in enumerate(options):
            self._check_length(len(prompt.tokens) + len(tokens) + 1, f"options[{index}]")
        return self._score(list(prompt.tokens), options, answer)

    def _score(self, prompt: list[int], options: list[list[int]], answer: Answer) -> Work:
        state, known = self._states.take(prompt, (), False)
        try:
            size, last = self._loaded.options.batch, np.empty(0, np.float32)
            for at in range(known, len(prompt), size):
                last = yield Step(state, tuple(prompt[at:at + size]))
            scores = []
            for tokens in options:
                rows: list[Values] = [last]
                if len(tokens) > 1:
                    if not state.plain:  # it cannot be cut back to the prompt: read that again
                        self._states.give_back(state)
                        state, _ = self._states.take((), (), False)
                        yield Step(state, tuple(prompt))
                    rows += list((yield Step(state, tuple(tokens[:-1]), all=True)))
                    if state.plain:
                        state.cut(len(prompt))
                scores.append(math.fsum(float(log_softmax(row.astype(np.float64))[token])
                                        for row, token in zip(rows, tokens, strict=False)))
            answer.result({"logprobs": scores}, len(prompt) + sum(len(tokens) for tokens in options))
        finally:
            self._states.give_back(state)

    def _input(self, given: str | tuple[int, ...], index: int) -> list[int]:
        size = len(self._loaded.vocabulary)
        tokens = self._loaded.listener.whole(given)[0] if isinstance(given, str) else list(given)
        if not given or not tokens:
            raise InvalidRequest(f"input[{index}] is empty", param=f"input[{index}]")
        if any(not 0 <= token < size for token in tokens):
            raise InvalidRequest(f"input[{index}] has token ids that are not from 0 to {size - 1}",
                                 param=f"input[{index}]")
        self._check_length(len(tokens), f"input[{index}]")
        return tokens

    def _check_length(self, tokens: int, param: str) -> None:
        limit = self._loaded.options.context
        if tokens > limit:
            failed = over_context(tokens, limit, param)
            raise InvalidRequest(failed.message, param=failed.param, code=failed.code)

    @torch.inference_mode()
    def _vector(self, tokens: list[int], normalize: bool) -> list[float]:
        self._loaded.adapters.use(())
        more = {} if vectors_only(self._loaded.card) else {"use_cache": False}
        states = self._body(input_ids=self._ids(tokens), **more).last_hidden_state[0].float()
        vector = {"cls": lambda: states[0], "last": lambda: states[-1], "mean": lambda: states.mean(0)}[self._pooling]()
        if normalize:
            vector = torch.nn.functional.normalize(vector, dim=0)
        return [float(value) for value in vector]

    @torch.inference_mode()
    def _relevance(self, tokens: list[int], types: Sequence[int]) -> float:
        more: dict[str, Any] = {}
        if getattr(self._loaded.model.config, "type_vocab_size", 0) > 1:
            more["token_type_ids"] = self._ids(types)
        return float(self._loaded.model(input_ids=self._ids(tokens), **more).logits[0, 0])

    def _ids(self, values: Sequence[int]) -> torch.Tensor:
        return torch.tensor([list(values)], device=self._loaded.model.device)


def _pooling(loaded: Loaded) -> str:
    """"cls", "mean" or "last". Raises InvalidRequest for a way of pooling that is not known."""
    path = loaded.folder / POOLING_FILE
    if not path.is_file():
        return "mean"
    try:
        config = json.loads(path.read_text("utf-8"))
        asked = [name for name, on in config.items() if name.startswith("pooling_mode") and on is True]
    except (OSError, ValueError, AttributeError) as error:
        raise InvalidRequest(f"{loaded.folder.name}/{POOLING_FILE} cannot be read", param="model") from error
    if len(asked) != 1 or asked[0] not in POOLINGS:
        raise InvalidRequest(f"{loaded.folder.name}/{POOLING_FILE} asks for {asked}; one of {', '.join(POOLINGS)} is "
                             "supported", param="model")
    return POOLINGS[asked[0]]
