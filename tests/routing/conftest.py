"""One server with routes over models of its own, of a second server and of one that misbehaves."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from odd_server import OddServer
from route_studio import BACK_KEY, ODD_KEY, ROUTES, WAYS, RouteStudio
from servers import Served, free_port


@pytest.fixture(scope="session")
def back_server(tmp_path_factory: pytest.TempPathFactory, starter_text: Path) -> Iterator[Served]:
    served = Served(with_model(tmp_path_factory.mktemp("route-back") / "data", starter_text), text_context=512)
    served.wait()
    yield served
    served.stop()


@pytest.fixture(scope="session")
def studio(tmp_path_factory: pytest.TempPathFactory, starter_text: Path, back_server: Served) -> Iterator[RouteStudio]:
    odd = OddServer()
    data = with_model(tmp_path_factory.mktemp("route-front") / "data", starter_text)
    broken = data / "models" / "broken"
    broken.mkdir()
    (broken / "broken.gguf").write_bytes(starter_text.read_bytes()[:20_000_000])
    front = Served(data, {"ODD_KEY": ODD_KEY, "BACK_KEY": BACK_KEY}, text_context=512, text_slots=2, routes=ROUTES,
                   upstreams={
        "odd": {"url": f"{odd.url}/v1", "models": WAYS, "api_key_env": "ODD_KEY", "tasks": ["chat", "embed"],
                "connect_seconds": 2, "first_token_seconds": 3},
        "back": {"url": f"{back_server.url}/v1", "models": ["starter-text"], "api_key_env": "BACK_KEY",
                 "tasks": ["chat", "embed"]},
        "gone": {"url": f"http://127.0.0.1:{free_port()}/v1", "models": ["x"]}})
    try:
        front.wait()
        with httpx.Client(base_url=front.url, timeout=120) as http:
            yield RouteStudio(front, odd, http)
        front.stop()
        log = front.log.read_text()
        assert ODD_KEY not in log and BACK_KEY not in log
    finally:
        front.process.kill()
        odd.stop()


def with_model(data: Path, starter_text: Path) -> Path:
    (data / "models").mkdir(parents=True)
    (data / "models" / "starter-text").symlink_to(starter_text.parent)
    return data
