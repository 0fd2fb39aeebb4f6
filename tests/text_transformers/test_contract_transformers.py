"""The transformers engine keeps the contract of text engines, with tiny models of two architectures."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

pytest.importorskip("transformers")

import tiny_hf
from contract import TextEngineContract
from text_runs import CONTEXT, Text

from diptych.core.protocol import LoadRequest
from diptych.engines.transformers.engine import TransformersEngine
from diptych.library.text_folder import identify_text_folder


class _OnTransformers(TextEngineContract):
    def end_tokens(self, text: Text) -> list[int]:
        return [2]


class TestTinyLlama(_OnTransformers):
    @pytest.fixture(scope="class")
    @classmethod
    def text(cls) -> Iterator[Text]:
        engine = TransformersEngine()
        engine.load(LoadRequest(card=identify_text_folder(tiny_hf.llama()), threads=1,
                                options={"slots": 2, "context": CONTEXT}))
        yield Text(engine)
        engine.close()


class TestTinyMistralFolder(_OnTransformers):
    @pytest.fixture(scope="class")
    @classmethod
    def text(cls) -> Iterator[Text]:
        engine = TransformersEngine()
        engine.load(LoadRequest(card=identify_text_folder(tiny_hf.mistral()), threads=1,
                                options={"slots": 2, "context": CONTEXT}))
        yield Text(engine)
        engine.close()
