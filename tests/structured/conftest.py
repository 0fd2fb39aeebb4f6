"""Settings of the tests of structured output and tools."""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("schema_checks", "schema_walks")
