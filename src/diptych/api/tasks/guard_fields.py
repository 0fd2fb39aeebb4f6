"""The guard that a request asks for: `guard`, and Mistral's `guardrails`. Pure."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from diptych.api.errors import refusal, shown
from diptych.api.openai.checked import list_at, object_at
from diptych.api.openai.schema import Guarded
from diptych.core.errors import InvalidRequest
from diptych.core.guard import Guard
from diptych.settings import Settings

HOSTED = "mistral-moderation-"
"""Mistral's own models of moderation, which its client names unasked: here the server's guard judges."""
MISTRAL: dict[str, tuple[str, ...]] = {
    "sexual": ("sexual", "sexual/minors"),
    "hate_and_discrimination": ("hate", "hate/threatening", "harassment"),
    "violence_and_threats": ("violence", "violence/graphic", "harassment/threatening"),
    "dangerous_and_criminal_content": ("illicit", "illicit/violent"),
    "dangerous": ("illicit/violent",), "criminal": ("illicit",),
    "selfharm": ("self-harm", "self-harm/intent", "self-harm/instructions"),
}
"""Mistral's categories, and those that stand for them here."""

def guards_of(body: Guarded, settings: Settings) -> tuple[Guard, ...]:
    """Those that the request asks for; the operator's holds anyway. Raises InvalidRequest."""
    model = settings.guard.model if settings.guard is not None else Guard().model
    found = []
    if body.guard is False:
        if settings.guard is not None:
            raise InvalidRequest("guard is false, but the guard of this server cannot be switched off", param="guard")
    elif body.guard is True:
        found.append(Guard(model=model))
    elif body.guard is not None:
        values = object_at(body.guard, "guard", "true, false or an object")
        lists = {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
        try:
            found.append(Guard.model_validate({"model": model, **values, **lists}, strict=True))
        except ValidationError as error:
            raise refusal(error, known=Guard.model_fields, within="guard") from None
    rails = [] if body.guardrails is None else list_at(body.guardrails, "guardrails", "a list of guardrails", 16)
    for index, item in enumerate(rails):
        found += _rails(item, f"guardrails[{index}]", model)
    return tuple(found)


def _rails(item: Any, where: str, model: str) -> list[Guard]:
    """One of Mistral's guardrails, which judge the input. `block_on_error` needs no reading: what cannot be judged is
    always refused."""
    found = []
    for name, value in object_at(item, where, "a guardrail").items():
        if name in ("moderation_llm_v1", "moderation_llm_v2"):
            found += [] if value is None else _rail(value, f"{where}.{name}", model)
        elif name != "block_on_error":
            raise InvalidRequest(f"{where}.{name} is no guardrail here; there are moderation_llm_v1 and "
                                 "moderation_llm_v2", param=f"{where}.{name}", code="not_supported")
    return found


def _rail(value: Any, where: str, model: str) -> list[Guard]:
    given = object_at(value, where)
    action = given.get("action")
    if action not in (None, "block", "none"):
        raise InvalidRequest(f"{where}.action is {shown(action)}, not block or none", param=f"{where}.action")
    named = given.get("model_name")
    if named is not None and not (isinstance(named, str) and named.startswith(HOSTED)):
        raise InvalidRequest(f"{where}.model_name is {shown(named)}; leave it out, or name a model in guard.model",
                             param=f"{where}.model_name")
    only = given.get("ignore_other_categories")
    if not isinstance(only, bool | None):
        raise InvalidRequest(f"{where}.ignore_other_categories is {shown(only)}, not true or false",
                             param=f"{where}.ignore_other_categories")
    place = f"{where}.custom_category_thresholds"
    limits = _limits(given.get("custom_category_thresholds"), place)
    if only and not limits:
        raise InvalidRequest(f"{place} is empty and ignore_other_categories true: that guards nothing", param=place)
    if action == "none":
        return []
    return [Guard(model=model, thresholds=limits, categories=tuple(limits) if only else None, output=False)]


def _limits(value: Any, where: str) -> dict[Any, float]:
    limits: dict[Any, float] = {}
    for name, limit in ({} if value is None else object_at(value, where)).items():
        if limit is None:
            continue
        if name not in MISTRAL:
            raise InvalidRequest(f"{where}.{name[:60]!a} cannot be judged here; there are {', '.join(MISTRAL)}",
                                 param=f"{where}.{name[:60]}", code="not_supported")
        if not isinstance(limit, int | float) or isinstance(limit, bool) or not 0 <= limit <= 1:
            raise InvalidRequest(f"{where}.{name} is {shown(limit)}, not a number from 0 to 1", param=f"{where}.{name}")
        for own in MISTRAL[name]:
            limits[own] = min(float(limit), limits.get(own, 1.0))
    return limits
