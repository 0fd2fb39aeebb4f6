"""From a spec as it was asked to one whose prompts are settled for every picture."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from diptych.core.checks import picture_seed
from diptych.core.errors import InvalidRequest
from diptych.core.image_options import MAX_PROMPT
from diptych.core.specs import ImageSpec, ResolvedPrompt
from diptych.prompts.check import checked
from diptych.prompts.resolve import resolve
from diptych.prompts.styles import read_styles, styled
from diptych.prompts.wildcards import WildcardFiles

MAX_RESOLVED = 256_000
"""Characters of all prompts of one job together, where they differ from what was asked."""
WILDCARDS = "wildcards"


def prepared(spec: ImageSpec, folder: Path) -> ImageSpec:
    """The spec with the prompts of its pictures in `resolved`, where these are others than the ones asked for.

    Args:
        spec: its seed is drawn already (not -1).
        folder: the data folder, with `styles.json`, `styles.csv` and `wildcards/`. Blocking.

    Raises:
        InvalidRequest: an unknown style or wildcard, a network, too long a text; names the field.
    """
    prompt, negative = spec.prompt, spec.negative_prompt
    if spec.styles:
        prompt, negative = styled(prompt, negative, spec.styles, read_styles(folder))
        for param, text in (("prompt", prompt), ("negative_prompt", negative)):
            if len(text) > MAX_PROMPT:
                raise InvalidRequest(f"{param} has {len(text)} characters with its styles, at most {MAX_PROMPT} are "
                                     "possible", param=param)
    found: list[ResolvedPrompt] = []
    files = WildcardFiles(folder / WILDCARDS)
    for index in range(spec.count):
        seed = picture_seed(spec, index)
        texts = {"prompt": prompt, "negative_prompt": negative}
        if spec.prompt_syntax == "full":
            texts = {param: resolve(text, seed, partial(files.values, param=param), param=param)
                     for param, text in texts.items()}
        found.append(ResolvedPrompt(**texts))
        if index and found[-1] == found[0]:
            continue
        for param, text in texts.items():
            checked(text, syntax=spec.prompt_syntax, param=param)
    if all(one == ResolvedPrompt(prompt=spec.prompt, negative_prompt=spec.negative_prompt) for one in found):
        return spec.model_copy(update={"resolved": ()})
    total = sum(len(one.prompt) + len(one.negative_prompt) for one in found)
    if total > MAX_RESOLVED:
        raise InvalidRequest(
            f"count is {spec.count}, and the prompts of all pictures have {total} characters with styles, choices and "
            f"wildcards, at most {MAX_RESOLVED} are possible", param="count")
    return spec.model_copy(update={"resolved": tuple(found)})
