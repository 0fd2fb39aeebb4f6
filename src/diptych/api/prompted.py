"""The dispatcher as it takes prompts: styles, wildcards and choices are decided when a job is accepted."""

from __future__ import annotations

import asyncio
import secrets
from typing import Any

from diptych.core.jobs import Job
from diptych.core.specs import ImageSpec
from diptych.prompts.prepare import prepared
from diptych.schedule.dispatcher import Dispatcher


class PromptedDispatcher(Dispatcher):
    """The job's record keeps the prompts as asked and those of each picture, so that it stays the same."""

    async def submit(self, spec: ImageSpec, *, caller: str, **more: Any) -> Job:
        """Raises what `Dispatcher.submit` does, and InvalidRequest for what the prompts cannot ask for."""
        if spec.seed < 0:
            spec = spec.model_copy(update={"seed": secrets.randbelow(2**32)})
        spec = await asyncio.to_thread(prepared, spec, self._settings.data_dir)
        return await super().submit(spec, caller=caller, **more)
