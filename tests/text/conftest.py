"""The real starter text model, in this process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.register_assert_rewrite("contract", "text_runs")

from text_runs import Text, load_request  # noqa: E402

from diptych.engines.text.llamacpp import LlamaCppEngine  # noqa: E402


@pytest.fixture(scope="session")
def text(starter_text: Path) -> Iterator[Text]:
    engine = LlamaCppEngine()
    engine.load(load_request(starter_text))
    yield Text(engine)
    engine.close()
