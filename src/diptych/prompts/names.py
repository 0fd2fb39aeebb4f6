"""What prompts name beside words: additional networks and embeddings."""

from __future__ import annotations

from collections.abc import Mapping

from diptych.core.errors import InvalidRequest
from diptych.core.specs import ImageSpec
from diptych.prompts.check import checked
from diptych.prompts.nodes import Network, Prompt
from diptych.prompts.schedule import mentions


def prompts_of(spec: ImageSpec) -> tuple[tuple[str, Prompt], ...]:
    """(field, prompt) of all pictures and passes, equal ones once. Raises InvalidRequest, see `checked`."""
    texts: dict[tuple[str, str], None] = {}
    for index in range(max(1, len(spec.resolved))):
        one = spec.prompts_of(index)
        texts |= {("prompt", one.prompt): None, ("negative_prompt", one.negative_prompt): None}
    if spec.hires is not None:
        texts |= {("prompt", spec.hires.prompt or ""): None,
                  ("negative_prompt", spec.hires.negative_prompt or ""): None}
    return tuple((param, checked(text, syntax=spec.prompt_syntax, param=param)) for param, text in texts)


def name_of(network: Network) -> str:
    """A network's name as it is looked up."""
    return network.name.strip().casefold()


def with_names(spec: ImageSpec, loras: Mapping[str, str], embeddings: Mapping[str, str]) -> ImageSpec:
    """The spec with `named` filled: the ids of what its prompts name, by "lora:NAME" for every <lora:NAME…> and by
    "embedding:WORD" for every word of a prompt that is the name of an embedding.

    Args:
        loras, embeddings: ids by the names that they can have in a prompt, in small letters.

    Raises:
        InvalidRequest: a prompt names a LoRA that is not there; names those that are.
    """
    named: dict[str, str] = {}
    for param, prompt in prompts_of(spec):
        for network in prompt.networks:
            name = name_of(network)
            if name not in loras:
                known = ", ".join(list(dict.fromkeys(loras.values()))[:50]) or "none"
                raise InvalidRequest(
                    f"{param} asks for <{network.kind}:{network.name[:100]}>, but there is no such LoRA; there are: "
                    f'{known}. Set prompt_syntax to "plain" if it is meant as text', param=param, code="lora_not_found")
            named[f"lora:{name}"] = loras[name]
        if spec.prompt_syntax == "full":
            named |= {f"embedding:{name}": embeddings[name] for name in sorted(mentions(prompt, frozenset(embeddings)))}
    return spec.model_copy(update={"named": named})
