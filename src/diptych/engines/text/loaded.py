"""One loaded GGUF model, and what is known of it."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xllamacpp

from diptych.core.cards import Card
from diptych.core.errors import InvalidRequest
from diptych.core.protocol import LoadRequest
from diptych.engines.text.grammars import Grammars
from diptych.engines.text.listener import Listener
from diptych.engines.text.marks import MARKS
from diptych.engines.text.mistral import MistralPrompts
from diptych.engines.text.options import vectors_only
from diptych.engines.text.params import TextOptions, parameters, read_options
from diptych.engines.text.vocabulary import Vocabulary, read_vocabulary

log = logging.getLogger("diptych.text")


@dataclass(frozen=True)
class Loaded:
    """`server` computes; `template` is the chat template in use; `marker` stands for a picture in a prompt; `mistral`
    makes the prompts of models with Mistral's vocabulary, and is None for others."""

    card: Card
    options: TextOptions
    server: Any
    listener: Listener
    vocabulary: Vocabulary
    grammars: Grammars
    mistral: MistralPrompts | None
    template: str
    marker: str

    @property
    def marks(self) -> list[str]:
        """Control tokens of this model that belong to the text of an answer."""
        return [mark for mark in MARKS if mark in self.vocabulary.ids]

    def complete(self, body: dict[str, Any], take: Callable[[dict[str, Any]], bool]) -> None:
        """Have llama.cpp continue `body["prompt"]`; blocks. `take` gets every chunk; True ends the answer."""
        if self.card.projector is None:
            self.server.handle_completions(body, take)
        else:
            self.listener.complete(body, take)

    @property
    def adapter_ids(self) -> list[str]:
        return [adapter.id for adapter in self.card.adapters]


def load(request: LoadRequest) -> Loaded:
    """Load the model of `request`; blocks.

    Raises:
        InvalidRequest: an option is wrong, or llama.cpp cannot load the file.
    """
    options, key = read_options(request), secrets.token_urlsafe(32)
    path = Path(request.card.path)
    try:
        server = xllamacpp.Server(parameters(request, options, key))
    except RuntimeError as error:
        raise InvalidRequest(
            f"llama.cpp cannot load {path.name!r}: the file is damaged, or of an architecture or with options that it "
            "does not know; the runner's log says more", param="model") from error
    # First work now: errors show here and not at the first user, and llama.cpp hangs when it is freed before it has
    # ever answered.
    if vectors_only(request.card):
        server.handle_embeddings({"input": "a"})
    else:
        server.handle_completions({"prompt": "a", "max_tokens": 1}, lambda chunk: False)
    listener = Listener(server.listening_address, key)
    properties = listener.properties()
    vocabulary = read_vocabulary(path)
    return Loaded(
        card=request.card, options=options, server=server, listener=listener, vocabulary=vocabulary,
        grammars=Grammars(vocabulary), mistral=_mistral(request, options, vocabulary),
        template=str(properties.get("chat_template") or ""),
        marker=str(properties.get("media_marker") or "<__media__>"))


def _mistral(request: LoadRequest, options: TextOptions, vocabulary: Vocabulary) -> MistralPrompts | None:
    if request.card.tokenizer is None or options.chat_template is not None:
        return None
    try:
        return MistralPrompts(vocabulary, request.card.tokenizer)
    except ValueError as error:
        log.warning("prompts are made by the template in the file, not by mistral-common: %s", error)
        return None
