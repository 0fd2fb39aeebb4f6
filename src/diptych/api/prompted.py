"""The dispatcher as it takes prompts: styles, wildcards and choices are decided when a job is accepted."""

from __future__ import annotations

import asyncio
import secrets
from typing import Any

from diptych.api.finished import held_to
from diptych.core.jobs import Job
from diptych.core.specs import ImageSpec, JobSpec
from diptych.library.parts import names_of
from diptych.prompts.names import with_names
from diptych.prompts.plain import plain_prompts
from diptych.prompts.prepare import prepared
from diptych.schedule.dispatcher import Dispatcher


class PromptedDispatcher(Dispatcher):
    """The job's record keeps the prompts as asked and those of each picture, so that it stays the same."""

    async def submit(self, spec: JobSpec, *, caller: str, **more: Any) -> Job:
        """Raises what `Dispatcher.submit` does, and InvalidRequest for what the prompts cannot ask for."""
        if spec.seed < 0:
            spec = spec.model_copy(update={"seed": secrets.randbelow(2**32)})
        spec = held_to(spec, self._settings.nsfw)
        if isinstance(spec, ImageSpec):
            spec = await asyncio.to_thread(self._prepared, spec)
        return await super().submit(spec, caller=caller, **more)

    def _prepared(self, spec: ImageSpec) -> ImageSpec:
        """With its prompts settled, and what they name found in the library."""
        spec = prepared(spec, self._settings.data_dir)
        card, parts = self._library.get(spec.model), self._library.parts()
        if card.family == "pipeline":
            for index in range(max(1, len(spec.resolved))):
                plain_prompts(spec, index)
            return spec
        # The name of an embedding of another family is a word like any other.
        embeddings = [part for part in parts if part.kind == "embedding" and part.text_width == card.text_width]
        return with_names(spec, names_of(part for part in parts if part.kind == "lora"), names_of(embeddings))
