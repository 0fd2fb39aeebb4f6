"""What a picture is conditioned on in each of its steps, as texts."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

from diptych.core.errors import InvalidRequest
from diptych.core.specs import ImageSpec
from diptych.prompts.check import checked
from diptych.prompts.nodes import Prompt
from diptych.prompts.schedule import Segment, Segments, at_step, changes

if TYPE_CHECKING:
    from diptych.engines.image.adapters.extras import Extras


@dataclass(frozen=True)
class Texts:
    """One step's texts: a condition for each part between AND, with its weight, and the negative prompt.

    `clip_skip`: the text encoder's layer, counted from the last, which is 1. `adapters`: keys of those in the text
    encoders, with their weights. `words`: those that are embeddings, in small letters, and the tokens of each.
    """

    positive: tuple[Segments, ...]
    weights: tuple[float, ...]
    negative: Segments
    clip_skip: int = 1
    adapters: tuple[tuple[str, float], ...] = ()
    words: tuple[tuple[str, tuple[int, ...]], ...] = ()

    @property
    def without_extras(self) -> Texts:
        """The same texts for a model that has none of the adapters and embeddings."""
        return dataclasses.replace(self, adapters=(), words=()) if self.adapters or self.words else self


def plain_texts(prompt: str, negative_prompt: str = "") -> Texts:
    """Two texts that mean their words."""
    return Texts(((Segment(prompt),),), (1.0,), (Segment(negative_prompt),))


class PicturePrompts:
    """The prompts of one picture of a spec, and the adapters they are painted with: `unet`. Raises InvalidRequest for
    what cannot be done.

    Args:
        extras: what was loaded for the request; None of a model that takes no adapters.
    """

    def __init__(self, spec: ImageSpec, index: int, extras: Extras | None = None) -> None:
        texts = spec.prompts_of(index)
        self._positive: Prompt = checked(texts.prompt, syntax=spec.prompt_syntax, param="prompt")
        self._negative: Prompt = checked(texts.negative_prompt, syntax=spec.prompt_syntax, param="negative_prompt")
        self.unet: tuple[tuple[str, float], ...] = ()
        self._text: tuple[tuple[str, float], ...] = ()
        self._words: tuple[tuple[str, tuple[int, ...]], ...] = ()
        if extras is not None:
            self.unet, self._text = extras.chosen(spec, (self._positive, self._negative))
            self._words = extras.tokens
        elif self._positive.networks or self._negative.networks:
            raise InvalidRequest("prompt names a network, but models of this family take none", param="prompt",
                                 code="network_unsupported")
        self._steps = spec.steps
        self._clip_skip = spec.clip_skip
        self.changes = changes(self._positive) or changes(self._negative)

    @property
    def combined(self) -> bool:
        """Whether it is more than one condition, or one that does not count once."""
        return [part.weight for part in self._positive.parts] != [1.0]

    def at(self, step: int) -> Texts:
        """The texts in step `step`; 0 is the first."""
        return Texts(
            tuple(at_step(part, step, self._steps) for part in self._positive.parts),
            tuple(part.weight for part in self._positive.parts),
            at_step(self._negative.parts[0], step, self._steps), self._clip_skip, self._text, self._words)
