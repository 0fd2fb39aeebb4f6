"""Values read by hand, with refusals that name their place. Pure."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from diptych.api.errors import refusal, shown
from diptych.core.errors import InvalidRequest

Kind = TypeVar("Kind", bound=BaseModel)


def checked(kind: type[Kind], within: str = "", names: dict[str, str] | None = None, /, **values: Any) -> Kind:
    """A model of `values`. Raises InvalidRequest that names the field as the client knows it (`names`)."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise refusal(error, names, within=within) from None


def object_at(value: Any, where: str, what: str = "an object") -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidRequest(f"{where} must be {what}, not {shown(value)}", param=where)
    return value


def list_at(value: Any, where: str, what: str = "a list", most: int = 10_000) -> list[Any]:
    if not isinstance(value, list):
        raise InvalidRequest(f"{where} must be {what}, not {shown(value)}", param=where)
    if len(value) > most:
        raise InvalidRequest(f"{where} has {len(value)} entries, at most {most} are taken", param=where)
    return value


def text_at(value: Any, where: str, *, empty: bool = True) -> str:
    if not isinstance(value, str) or not (value or empty):
        raise InvalidRequest(
            f"{where} must be text{'' if empty else ' that is not empty'}, not {shown(value)}", param=where)
    return value


def flag_at(value: Any, where: str) -> bool:
    if not isinstance(value, bool):
        raise InvalidRequest(f"{where} must be true or false, not {shown(value)}", param=where)
    return value


def same(body: BaseModel, *names: str) -> Any:
    """The value of a field that has several names. Raises InvalidRequest when two of them are there and differ."""
    found = [(name, value) for name in names if (value := getattr(body, name)) is not None]
    for name, value in found[1:]:
        if value != found[0][1]:
            raise InvalidRequest(
                f"{found[0][0]} is {shown(found[0][1])} and {name} is {shown(value)}; give one of them", param=name)
    return found[0][1] if found else None
