"""`/api/jobs` and `/api/artifacts` over a real socket."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

SMALL = {"model": "tiny", "prompt": "a red apple", "width": 64, "height": 64, "steps": 2}
SLOW = {"model": "tiny", "prompt": "slow", "width": 256, "height": 256, "steps": 900, "count": 16}
Until = Callable[[Callable[[], Any]], Any]


def submit(http: httpx.Client, **fields: Any) -> dict[str, Any]:
    answer = http.post("/api/jobs", json={**SMALL, **fields})
    assert answer.status_code == 201, answer.text
    assert answer.headers["location"] == f"/api/jobs/{answer.json()['id']}"
    return dict(answer.json())


def job(http: httpx.Client, id: str) -> dict[str, Any]:
    return dict(http.get(f"/api/jobs/{id}").raise_for_status().json())


def sse(http: httpx.Client, id: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    with http.stream("GET", f"/api/jobs/{id}/events") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        name = ""
        for line in answer.iter_lines():
            if line.startswith("event: "):
                name = line[7:]
            elif line.startswith("data: "):
                found.append(json.loads(line[6:]))
                assert found[-1]["type"] == name
    return found


def websocket(server: Any, id: str, **options: Any) -> Any:
    return connect(f"{server.url.replace('http', 'ws')}/api/jobs/{id}/events/ws", **options)


def test_from_prompt_to_picture(http: httpx.Client) -> None:
    made = submit(http, count=2, seed=5, preview_every=1, sampler="dpm++ 2m karras", guidance=2)
    assert made["spec"]["sampler"] == "DPM++ 2M"
    assert made["spec"]["schedule"] == "karras"
    events = sse(http, made["id"])
    kinds = {event["type"] for event in events}
    assert {"started", "progress", "preview", "artifact", "metrics", "finished"} <= kinds
    assert events[-1] == {"type": "finished", "reason": "stop", "stop": None, "guard": None}
    artifacts = [event for event in events if event["type"] == "artifact"]
    assert [item["seed"] for item in artifacts] == [5, 6]
    assert all("path" not in item for item in artifacts)
    done = job(http, made["id"])
    assert (done["state"], done["progress"], done["attempts"]) == ("succeeded", 1.0, 1)
    assert [item["url"] for item in done["artifacts"]] == [item["url"] for item in artifacts]
    assert http.get(f"/api/jobs/{made['id']}/artifacts").json() == {"artifacts": done["artifacts"]}
    file = http.get(done["artifacts"][1]["url"])
    assert file.headers["content-type"] == "image/png"
    assert file.headers["x-content-type-options"] == "nosniff"
    with Image.open(io.BytesIO(file.content)) as picture:
        assert picture.size == (64, 64)
        assert json.loads(picture.text["diptych"])["spec"]["seed"] == 6  # type: ignore[attr-defined]


def test_events_of_a_job_that_has_ended(http: httpx.Client, server: Any) -> None:
    made = submit(http)
    sse(http, made["id"])
    again = sse(http, made["id"])
    assert [event["type"] for event in again][-1] == "finished"
    assert [event["index"] for event in again if event["type"] == "artifact"] == [0]
    with websocket(server, made["id"]) as socket:
        assert [json.loads(message) for message in socket] == again


def test_events_over_websocket(http: httpx.Client, server: Any) -> None:
    made = submit(http, steps=5)
    with websocket(server, made["id"]) as socket:
        events = [json.loads(message) for message in socket]
        assert socket.close_code == 1000
    assert events[-1]["type"] == "finished"
    assert any(event["type"] == "artifact" for event in events)


def test_websocket_refusals(http: httpx.Client, server: Any) -> None:
    with websocket(server, "0" * 32) as socket:
        assert json.loads(socket.recv())["error"]["code"] == "not_found"
        with pytest.raises(ConnectionClosed):
            socket.recv()
        assert socket.close_code == 4404
    id = submit(http)["id"]
    with pytest.raises(InvalidStatus, match="403"):
        websocket(server, id, origin="http://elsewhere.example")
    with websocket(server, id, origin=server.url) as socket:
        assert json.loads(socket.recv())["type"]


@pytest.mark.parametrize("how", ["POST", "DELETE"])
def test_cancel(http: httpx.Client, until: Until, how: str) -> None:
    made = submit(http, **SLOW)
    until(lambda: job(http, made["id"])["state"] == "running")
    path = f"/api/jobs/{made['id']}"
    answer = http.post(f"{path}/cancel") if how == "POST" else http.delete(path)
    assert answer.status_code == 200
    assert answer.json()["cancel_requested"] is True
    assert sse(http, made["id"])[-1] == {"type": "finished", "reason": "cancelled", "stop": None, "guard": None}
    assert job(http, made["id"])["state"] == "cancelled"
    second = http.post(f"{path}/cancel")
    assert second.status_code == 409
    assert "cancelled" in second.json()["error"]["message"]


def test_a_watcher_that_goes_leaves_the_job_alone(http: httpx.Client, server: Any, until: Until) -> None:
    made = submit(http, **SLOW)
    with http.stream("GET", f"/api/jobs/{made['id']}/events") as answer:
        next(answer.iter_lines())
    with websocket(server, made["id"]) as socket:
        socket.recv()
    until(lambda: job(http, made["id"])["state"] == "running")
    http.post(f"/api/jobs/{made['id']}/cancel")
    until(lambda: job(http, made["id"])["state"] == "cancelled")


def test_queue_positions(http: httpx.Client, until: Until) -> None:
    """One job runs; those of the other model wait behind it in the order they came."""
    running = submit(http, **SLOW)
    until(lambda: job(http, running["id"])["state"] == "running")
    waiting = [submit(http, **{**SLOW, "prompt": f"waits {n}"}, priority="batch") for n in range(3)]
    try:
        queue = http.get("/api/system").json()["queue"]
        places = {item["id"]: item["position"] for item in queue}
        for made in waiting:
            now = job(http, made["id"])
            if now["state"] == "queued":
                assert now["position"] == places[made["id"]]
        assert [item["position"] for item in queue] == list(range(len(queue)))
        assert queue, "all of them run at once"
    finally:
        for made in (running, *waiting):
            http.post(f"/api/jobs/{made['id']}/cancel")


def test_pages_and_filters(http: httpx.Client) -> None:
    ids = []
    for number in range(3):
        page = {**SMALL, "prompt": f"page {number}"}
        answer = http.post("/api/jobs", json=page, headers={"X-Diptych-Caller": "pages"})
        ids.append(answer.json()["id"])
        assert answer.json()["caller"] == "pages"
        sse(http, ids[-1])
    first = http.get("/api/jobs", params={"caller": "pages", "limit": 2}).json()
    assert [item["id"] for item in first["jobs"]] == [ids[2], ids[1]]
    second = http.get("/api/jobs", params={"caller": "pages", "limit": 2, "before": first["next"]}).json()
    assert [item["id"] for item in second["jobs"]] == [ids[0]]
    assert second["next"] is None
    assert http.get("/api/jobs", params={"caller": "pages", "state": "failed"}).json()["jobs"] == []


def test_files_outside_the_artifacts_folder_are_not_served(http: httpx.Client, server: Any) -> None:
    """Neither by an address nor by a link that lies in the folder."""
    made = submit(http)
    sse(http, made["id"])
    url = job(http, made["id"])["artifacts"][0]["url"]
    assert http.get(url).status_code == 200
    files = list(Path(server.data_dir, "artifacts", made["id"]).glob("*.png"))
    assert len(files) == 1
    secret = Path(server.data_dir).parent / "secret.png"
    secret.write_bytes(b"secret")
    files[0].unlink()
    assert http.get(url).status_code == 404
    files[0].symlink_to(secret)
    refused = http.get(url)
    assert refused.status_code == 404
    assert refused.json()["error"]["code"] == "file_gone"
    for path in ("/api/artifacts/../../diptych.sqlite3", "/api/artifacts/..%2f..%2fdiptych.sqlite3",
                 "/api/artifacts/%2e%2e", "/api/artifacts/%00"):
        assert http.get(path).status_code == 404
