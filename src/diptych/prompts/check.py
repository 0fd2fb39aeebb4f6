"""What a prompt must not ask for, because it cannot be done. Asked by the gateway and again by the engine."""

from __future__ import annotations

from diptych.core.adapters import MAX_STRENGTH
from diptych.core.errors import InvalidRequest
from diptych.prompts.nodes import Network, Prompt
from diptych.prompts.parser import parse

LORAS = ("lora", "lyco")
"""Kinds of networks that are applied; LyCORIS files are told apart by what is in them."""
MAX_PARTS = 8
"""Conditions joined by AND: each is a row more in every pass."""


def checked(text: str, *, syntax: str, param: str) -> Prompt:
    """The prompt of the field `param` ("prompt" or "negative_prompt").

    Raises:
        InvalidRequest: it names a network of a kind that cannot be used, or with a weight beyond `MAX_STRENGTH`, or has
            more than `MAX_PARTS` parts.
    """
    prompt = parse(text, syntax=syntax, conjunction=param != "negative_prompt")
    for network in prompt.networks:
        _check_network(network, param)
    if len(prompt.parts) > MAX_PARTS:
        raise InvalidRequest(
            f"{param} has {len(prompt.parts)} parts joined by AND, at most {MAX_PARTS} are possible", param=param)
    return prompt


def _check_network(network: Network, param: str) -> None:
    if network.kind not in LORAS:
        raise InvalidRequest(
            f"{param} asks for <{network.kind}:{network.name[:100]}>, but only networks of the kind lora can be used; "
            'leave it out, or set prompt_syntax to "plain" if it is meant as text', param=param,
            code="network_unsupported")
    for name, weight in network.weights.items():
        if name in ("unet", "te") and not abs(weight) <= MAX_STRENGTH:
            raise InvalidRequest(
                f"{param} asks for <{network.kind}:{network.name[:100]}> with the weight {weight:g}; possible are "
                f"-{MAX_STRENGTH:g} to {MAX_STRENGTH:g}", param=param)
