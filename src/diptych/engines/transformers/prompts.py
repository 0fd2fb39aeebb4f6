"""From a spec to the token ids that the model reads."""

from __future__ import annotations

from typing import Any

from diptych.core.chat import Message
from diptych.core.errors import InvalidRequest
from diptych.core.specs import ChatSpec
from diptych.engines.text.render import Prompt, Renderer
from diptych.engines.transformers.loaded import Loaded
from diptych.engines.transformers.steps import Values


class Prompts(Renderer):
    """Prompts of one model. Safe from any thread."""

    def __init__(self, loaded: Loaded) -> None:
        super().__init__(loaded)
        self._model = loaded

    def pixels(self, prompt: Prompt) -> tuple[Values, ...]:
        """The pictures of a prompt as the vision tower takes them."""
        if not prompt.images:
            return ()
        assert self._model.mistral is not None
        return tuple(self._model.mistral.pixels(data) for data in prompt.images)

    def _render(self, messages: tuple[Message, ...], spec: ChatSpec, options: dict[str, Any]) -> Prompt:
        images = tuple(image.data for message in messages for image in message.images)
        if self._model.mistral is not None:
            if images and not self._model.mistral.sees:
                raise InvalidRequest(
                    f"model {self._model.card.id!r} cannot see pictures: its tekken.json does not say how they are cut",
                    param="messages")
            return Prompt(tuple(self._model.mistral.chat(messages, spec.tools)), "", images)
        # As with transformers itself: the template alone decides about the token that begins a text.
        return Prompt(tuple(self._model.listener.tokens(self._template(messages, spec, options))))
