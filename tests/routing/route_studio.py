"""The routes that are tested, and what is behind them."""

from __future__ import annotations

from dataclasses import dataclass

import httpx
from odd_server import OddServer
from servers import Served

LOCAL, BACK = "starter-text", "back/starter-text"
ODD_KEY, BACK_KEY = "sk-odd-5d41402abc4b2a76", "sk-back-7d793037a0760186"
WAYS = ["ok", "ok2", "long", "cut", "full", "busy", "down", "filter", "short", "wrong", "locked", "ghost", "hang",
        "drip", "late", "turning"]


def first_token(model: str, seconds: float) -> dict[str, object]:
    return {"model": model, "first_token_seconds": seconds}


ROUTES: dict[str, dict[str, object]] = {
    "good": {"targets": ["odd/ok", LOCAL]},
    "local-first": {"targets": [LOCAL, "odd/ok"], "cooldown_seconds": 0},
    "both": {"targets": ["odd/down", BACK, LOCAL], "cooldown_seconds": 0},
    "turns": {"targets": ["odd/turning", "odd/ok"], "cooldown_seconds": 1.5},
    "cutting": {"targets": ["odd/cut", "odd/ok"], "cooldown_seconds": 0},
    "timing": {"targets": [first_token("odd/hang", 0.5), first_token("odd/drip", 0.5), first_token("odd/late", 0.5),
                           "odd/ok"], "cooldown_seconds": 0},
    "refused": {"targets": ["odd/filter", "odd/short"], "cooldown_seconds": 0},
    "dead": {"targets": ["gone/x", "odd/hang"], "cooldown_seconds": 0},
    "vectors": {"targets": ["odd/down", "odd/ok"], "same_vectors": True, "cooldown_seconds": 0},
    "broken-first": {"targets": ["broken", LOCAL], "cooldown_seconds": 0},
    "shares": {"targets": ["odd/ok", "odd/ok2"], "strategy": "weighted"},
    **{f"from-{way}": {"targets": [f"odd/{way}", "odd/ok"], "cooldown_seconds": 0}
       for way in ("full", "busy", "down", "filter", "short", "wrong", "locked", "ghost")},
}


@dataclass
class RouteStudio:
    """`front` is the server with the routes; `odd` and `back` are behind it."""

    front: Served
    odd: OddServer
    http: httpx.Client
