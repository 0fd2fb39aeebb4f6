"""What prompts are made with, whatever engine the model runs on."""

from __future__ import annotations

from typing import Any, Protocol

from diptych.core.cards import Card
from diptych.engines.text.mistral import MistralPrompts
from diptych.engines.text.vocabulary import Vocabulary


class HasContext(Protocol):
    @property
    def context(self) -> int:
        """Tokens per request, prompt and answer together."""
        ...


class Tokens(Protocol):
    """Tokens of texts, and the model's chat template."""

    def tokens(self, text: str, *, special: bool = True, begin: bool = False) -> list[int]:
        """Token ids; `special`: names of control tokens in the text become those tokens; `begin`: add the token that
        begins a text, where the model has one."""
        ...

    def text(self, tokens: list[int]) -> str: ...

    def prompt(self, body: dict[str, Any]) -> str:
        """A conversation (OpenAI's fields) as the template writes it; raises InvalidRequest where it refuses."""
        ...


class PromptModel(Protocol):
    """The parts of a loaded model that its prompts are made with; `marker` stands for a picture."""

    @property
    def card(self) -> Card: ...

    @property
    def options(self) -> HasContext: ...

    @property
    def listener(self) -> Tokens: ...

    @property
    def vocabulary(self) -> Vocabulary: ...

    @property
    def mistral(self) -> MistralPrompts | None: ...

    @property
    def template(self) -> str: ...

    @property
    def marker(self) -> str: ...
