"""llama.cpp keeps the contract of text engines, with a real model and with a tiny one of Mistral's architecture."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import tiny
from contract import TextEngineContract
from text_runs import CONTEXT, Text

from diptych.core.protocol import LoadRequest
from diptych.engines.text.llamacpp import LlamaCppEngine
from diptych.library.identify import identify_gguf


class TestStarter(TextEngineContract):
    def end_tokens(self, text: Text) -> list[int]:
        return text.engine._loaded.listener.tokens("<|im_end|>")  # type: ignore[attr-defined]


class TestTinyMistral(TextEngineContract):
    @pytest.fixture(scope="class")
    @classmethod
    def text(cls) -> Iterator[Text]:
        card = identify_gguf(tiny.mistral("v7"))
        assert card is not None
        engine = LlamaCppEngine()
        engine.load(LoadRequest(card=card, threads=1, options={"slots": 2, "context": CONTEXT}))
        yield Text(engine)
        engine.close()

    def end_tokens(self, text: Text) -> list[int]:
        return [2]
