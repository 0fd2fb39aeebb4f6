"""Answers in XML by a JSON schema."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from diptych.core.errors import InvalidRequest
from diptych.text.schema import JsonSchema


def xml_form(value: Any, where: str) -> tuple[str, JsonSchema, Callable[[str], Any]]:
    raise InvalidRequest(f"{where}: xml is not supported yet", param=where, code="not_supported")
