"""What a prompt must not ask for, because it cannot be done. Asked by the gateway and again by the engine."""

from __future__ import annotations

from diptych.core.errors import InvalidRequest
from diptych.prompts.nodes import Prompt
from diptych.prompts.parser import parse

MAX_PARTS = 8
"""Conditions joined by AND: each is a row more in every pass."""


def checked(text: str, *, syntax: str, param: str) -> Prompt:
    """The prompt of the field `param` ("prompt" or "negative_prompt").

    Raises:
        InvalidRequest: it names a network, or has more than `MAX_PARTS` parts.
    """
    prompt = parse(text, syntax=syntax, conjunction=param != "negative_prompt")
    if prompt.networks:
        network = prompt.networks[0]
        raise InvalidRequest(
            f"{param} asks for <{network.kind}:{network.name[:100]}>, but networks in prompts cannot be applied yet; "
            'leave it out, or set prompt_syntax to "plain" if it is meant as text', param=param,
            code="network_unsupported")
    if len(prompt.parts) > MAX_PARTS:
        raise InvalidRequest(
            f"{param} has {len(prompt.parts)} parts joined by AND, at most {MAX_PARTS} are possible", param=param)
    return prompt
