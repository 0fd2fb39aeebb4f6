"""The tokens that a request makes likelier or less likely."""

from __future__ import annotations

from diptych.core.errors import InvalidRequest
from diptych.core.specs import Sampling
from diptych.engines.text.prompting import PromptModel


def token_biases(model: PromptModel, sampling: Sampling) -> dict[int, float]:
    """What `logit_bias` adds to which token ids. Raises InvalidRequest for a key that is no token of the model."""
    biases: dict[int, float] = {}
    for key, value in sampling.logit_bias.items():
        id = _token_id(model, key)
        biases[id] = biases.get(id, 0.0) + value
    return biases


def _token_id(model: PromptModel, key: str) -> int:
    """The token that a key of `logit_bias` means: its id, or a text that is one token."""
    count = len(model.vocabulary)
    if key.isascii() and key.isdigit():
        if int(key) >= count:
            raise InvalidRequest(
                f"logit_bias names token {key}, but this model's go from 0 to {count - 1}", param="logit_bias")
        return int(key)
    tokens = model.listener.tokens(key) if key else []
    if len(tokens) != 1:
        raise InvalidRequest(
            f"logit_bias names the text {key[:80]!r}, which is {len(tokens)} tokens of this model; name a "
            "text of one token, or token ids", param="logit_bias")
    return tokens[0]
