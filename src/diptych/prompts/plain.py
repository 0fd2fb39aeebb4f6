"""Prompts as nothing but words, for models whose text encoders know no weights and no parts."""

from __future__ import annotations

from diptych.core.errors import InvalidRequest
from diptych.core.specs import ImageSpec
from diptych.prompts.check import checked
from diptych.prompts.schedule import at_step, changes


def plain_prompts(spec: ImageSpec, index: int) -> tuple[str, str]:
    """The prompt and the negative prompt of picture `index` as words.

    Raises:
        InvalidRequest: they have weights, schedules, parts or networks; names the field.
    """
    texts = spec.prompts_of(index)
    return (_words(texts.prompt, spec.prompt_syntax, "prompt"),
            _words(texts.negative_prompt, spec.prompt_syntax, "negative_prompt"))


def _words(text: str, syntax: str, param: str) -> str:
    prompt = checked(text, syntax=syntax, param=param)
    whole = [part.weight for part in prompt.parts] == [1.0] and not changes(prompt) and not prompt.networks
    segments = at_step(prompt.parts[0], 0, 1)
    if not whole or any(segment.text is None or segment.weight != 1.0 for segment in segments):
        raise InvalidRequest(
            f"{param} has weights, schedules, BREAK, AND or networks, which this model's family does not know; write "
            "brackets that are meant as text with a backslash before them, or set prompt_syntax to 'plain'",
            param=param)
    return "".join(segment.text or "" for segment in segments)
