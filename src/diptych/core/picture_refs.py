"""The pictures that a request names, wherever they stand in it."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, get_args

from pydantic import BaseModel

from diptych.core.image_options import IsPicture

Place = Callable[[str, str], str]
"""`place(text, param)`: what stands in the field `param`, and the id of the stored picture in its place."""


def with_ids(model: BaseModel, place: Place) -> dict[str, Any]:
    """The values of `model` as `model_dump` has them, with every picture (a field of the type `PictureRef`, at any
    depth) replaced by what `place` gives for it."""
    return {name: _with_ids(getattr(model, name), name, place, name in picture_fields(type(model)))
            for name in type(model).model_fields}


def _with_ids(value: Any, param: str, place: Place, picture: bool) -> Any:
    if isinstance(value, BaseModel):
        marked = picture_fields(type(value))
        return {name: _with_ids(getattr(value, name), f"{param}.{name}", place, name in marked)
                for name in type(value).model_fields}
    if isinstance(value, (list, tuple)):
        return [_with_ids(item, f"{param}[{index}]", place, picture) for index, item in enumerate(value)]
    if isinstance(value, str) and picture:
        return place(value, param)
    return value


@lru_cache(maxsize=256)
def picture_fields(model: type[BaseModel]) -> frozenset[str]:
    """Names of the fields of a model that hold pictures, one or several."""
    return frozenset(name for name, field in model.model_fields.items()
                     if any(isinstance(mark, IsPicture) for mark in field.metadata) or _marked(field.annotation))


def _marked(annotation: Any) -> bool:
    if any(isinstance(mark, IsPicture) for mark in getattr(annotation, "__metadata__", ())):
        return True
    return any(_marked(part) for part in get_args(annotation))
