"""Vectors, relevance and likelihoods: work that makes no text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from diptych.core.errors import InvalidRequest, Unavailable
from diptych.core.events import Failed
from diptych.core.specs import EmbedSpec, RerankSpec, ScoreSpec
from diptych.engines.text.answer import Answer, over_context, read_error
from diptych.engines.text.grammars import HEADER
from diptych.engines.text.loaded import Loaded
from diptych.engines.text.options import vectors_only
from diptych.engines.text.render import Renderer

TOGETHER = 16
"""Inputs given to llama.cpp at a time; a cancel is heard between."""
_EUCLID, _RAW = 2, -1


class Refused(Exception):
    """llama.cpp refused a part of the work."""

    def __init__(self, failed: Failed) -> None:
        super().__init__(failed.message)
        self.failed = failed


class Measures:
    """Vectors, relevance and likelihoods from one model. Safe from any thread."""

    def __init__(self, loaded: Loaded) -> None:
        self._loaded = loaded
        self._renderer = Renderer(loaded)

    def embed(self, spec: EmbedSpec, answer: Answer) -> None:
        """One vector for each input; blocks. A chat model's vector is the mean of its last states, over windows of
        `batch` tokens that are read each on its own, weighted by their lengths."""
        inputs = [self._input(given, index) for index, given in enumerate(spec.inputs)]
        options = self._loaded.options
        size = options.context if vectors_only(self._loaded.card) else options.batch
        windows = [(index, tokens[at:at + size]) for index, tokens in enumerate(inputs)
                   for at in range(0, len(tokens), size)]
        single = len(windows) == len(inputs)
        vectors = self._vectors([tokens for _, tokens in windows], spec.normalize and single, answer)
        if answer.cancelled:
            return
        if not single:
            vectors = [_mean([(vector, len(tokens)) for vector, (owner, tokens) in zip(vectors, windows, strict=True)
                              if owner == index], spec.normalize) for index in range(len(inputs))]
        answer.result({"vectors": vectors}, sum(len(tokens) for tokens in inputs))

    def rerank(self, spec: RerankSpec, answer: Answer) -> None:
        """How relevant each document is; blocks."""
        card = self._loaded.card
        if "rerank" not in card.tasks:
            raise InvalidRequest(f"model {card.id!r} is no reranker", param="model", code="unsupported_value")
        scores: list[float] = []
        used = 0
        for at in range(0, len(spec.documents), TOGETHER):
            if answer.cancelled:
                return
            documents = list(spec.documents[at:at + TOGETHER])
            found = self._checked(self._loaded.server.handle_rerank({"query": spec.query, "documents": documents}),
                                  "documents")
            part = {item["index"]: float(item["relevance_score"]) for item in found["results"]}
            scores += [part[index] for index in range(len(documents))]
            used += int(found.get("usage", {}).get("total_tokens", 0))
        answer.result({"scores": scores}, used)

    def score(self, spec: ScoreSpec, answer: Answer) -> None:
        """The log-likelihood of each option after the conversation; blocks. The model is held to the option's tokens
        and tells the probability that each had without that: of the whole vocabulary, at temperature 1. The
        conversation stays in the cache between the options."""
        prompt = self._renderer.score(spec)
        if prompt.images:
            raise InvalidRequest("options are not scored after pictures", param="messages", code="unsupported_value")
        scores: list[float] = []
        used = len(prompt.tokens)
        limit = self._loaded.options.context
        for index, option in enumerate(spec.options):
            tokens = self._loaded.listener.tokens(option, special=False)
            used += len(tokens)
            if len(prompt.tokens) + len(tokens) >= limit:
                raise Refused(over_context(len(prompt.tokens) + len(tokens), limit, f"options[{index}]"))
            scores.append(self._likelihood(prompt.tokens, tokens, answer))
            if answer.cancelled:
                return
        answer.result({"logprobs": scores}, used)

    def _likelihood(self, prompt: Sequence[int], tokens: list[int], answer: Answer) -> float:
        if not tokens:
            return 0.0
        found: list[tuple[int, float]] = []
        errors: list[dict[str, Any]] = []

        def take(chunk: dict[str, Any]) -> bool:
            if "error" in chunk:
                errors.append(chunk["error"])
            for choice in chunk.get("choices") or ():
                found.extend((item["id"], float(item["logprob"]))
                             for item in (choice.get("logprobs") or {}).get("content") or ())
            return answer.cancelled

        forced = " ".join(f"<[{token}]>" for token in tokens)
        self._loaded.complete({
            "prompt": list(prompt), "max_tokens": len(tokens), "temperature": 0.0, "n_probs": 1, "stream": True,
            "return_progress": True, "grammar": f"{HEADER}\nstart: {forced}\n"}, take)
        if errors:
            raise Refused(read_error(errors[0], "messages"))
        if not answer.cancelled and [id for id, _ in found] != tokens:
            raise Unavailable("llama.cpp did not keep to the tokens of an option", code="engine_failed")
        return math.fsum(logprob for _, logprob in found)

    def _input(self, given: str | tuple[int, ...], index: int) -> list[int]:
        loaded, count = self._loaded, len(self._loaded.vocabulary)
        tokens = loaded.listener.tokens(given, special=False, begin=True) if isinstance(given, str) else list(given)
        if not tokens:
            raise InvalidRequest(f"input[{index}] is empty", param=f"input[{index}]")
        if any(not 0 <= token < count for token in tokens):
            raise InvalidRequest(f"input[{index}] has token ids that are not from 0 to {count - 1}",
                                 param=f"input[{index}]")
        if len(tokens) >= loaded.options.context:
            raise Refused(over_context(len(tokens), loaded.options.context, f"input[{index}]"))
        return tokens

    def _vectors(self, inputs: list[list[int]], normalize: bool, answer: Answer) -> list[list[float]]:
        vectors: list[list[float]] = []
        for at in range(0, len(inputs), TOGETHER):
            if answer.cancelled:
                break
            found = self._checked(self._loaded.server.handle_embeddings({
                "input": inputs[at:at + TOGETHER], "embd_normalize": _EUCLID if normalize else _RAW}), "input")
            vectors += [item["embedding"] for item in sorted(found["data"], key=lambda item: int(item["index"]))]
        return vectors

    def _checked(self, found: dict[str, Any], param: str) -> dict[str, Any]:
        if "error" in found:
            raise Refused(read_error(found["error"], param))
        return found


def _mean(parts: list[tuple[list[float], int]], normalize: bool) -> list[float]:
    total = sum(weight for _, weight in parts)
    mean = [math.fsum(vector[place] * weight for vector, weight in parts) / total for place in range(len(parts[0][0]))]
    length = math.sqrt(math.fsum(value * value for value in mean)) if normalize else 1.0
    return [value / (length or 1.0) for value in mean]
