"""Answers in YAML by a JSON schema."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from diptych.core.errors import InvalidRequest
from diptych.text.schema import JsonSchema


def yaml_form(value: Any, where: str) -> tuple[str, JsonSchema, Callable[[str], Any]]:
    raise InvalidRequest(f"{where}: yaml is not supported yet", param=where, code="not_supported")
