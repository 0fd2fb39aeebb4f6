"""The contract of text engines, and the tiny models that it is tried with."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.register_assert_rewrite("contract", "text_runs")
sys.path.append(str(Path(__file__).parents[1] / "text"))
