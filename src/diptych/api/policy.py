"""Which scope a request needs. Pure. What is not in the table needs `admin`: a route that was forgotten is closed."""

from __future__ import annotations

PUBLIC = frozenset({"/health", "/ready", "/docs", "/openapi.json"})
"""Answered without a key: they tell nothing about anybody's work."""
READING = ("GET", "HEAD")
ANY = ""
"""Any valid key will do."""

_RULES: tuple[tuple[str, tuple[str, ...] | None, str], ...] = (
    # path and what is below it, methods (None: all), scope; the first that fits holds
    ("/v1/models", READING, "models:read"),
    ("/v1/images", None, "images"),
    ("/v1/fine_tuning", None, "admin"),
    ("/v1/files", None, "admin"),
    ("/v1", None, "chat"),
    ("/v2", None, "chat"),
    ("/api/translate", None, "chat"),
    ("/api/classifiers", None, "chat"),
    ("/api/collections", None, "chat"),
    ("/api/agents", None, "chat"),
    ("/api/routes", None, "admin"),
    ("/api/tools", READING, "chat"),
    ("/api/tools", None, "admin"),
    ("/sdapi", None, "images"),
    ("/api/jobs", READING, "jobs"),
    ("/api/jobs/*", None, "jobs"),
    ("/api/jobs", None, "images"),
    ("/api/artifacts", READING, "jobs"),
    ("/api/inputs", None, "images"),
    ("/api/control", None, "images"),
    ("/api/finish", None, "images"),
    ("/api/watermark", None, "images"),
    ("/api/interrogate", None, "images"),
    ("/api/models", READING, "models:read"),
    ("/api/models", None, "models:write"),
    ("/api/parts", READING, "models:read"),
    ("/api/system", READING, ANY),
    ("/api/keys/self", READING, ANY),
    ("/metrics", READING, "metrics"),
)


def needed_scope(method: str, path: str) -> str | None:
    """The scope for `method` on `path`; empty: any key; None: no key."""
    if path in PUBLIC and method in READING:
        return None
    for place, methods, scope in _RULES:
        if (methods is None or method in methods) and _below(path, place):
            return scope
    return "admin"


def _below(path: str, place: str) -> bool:
    """`/a` holds for /a and /a/…; `/a/*` for /a/… only."""
    if place.endswith("/*"):
        return path.startswith(place[:-1]) and len(path) >= len(place)
    return path == place or path.startswith(f"{place}/")
