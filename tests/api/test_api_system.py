"""`/api/models`, `/api/system`, the description of the API, start and end of the server."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from api_server import Server, Until
from diptych.app import make_folders, serve
from diptych.core.errors import InvalidRequest, Unavailable
from diptych.settings import Settings


def models(http: httpx.Client) -> dict[str, dict[str, Any]]:
    return {item["id"]: item for item in http.get("/api/models").json()["models"]}


def test_models_load_and_unload(http: httpx.Client, until: Until) -> None:
    # A job that another test left behind would have its model loaded again at once.
    until(lambda: not {"queued", "running"} & {
        state for state, count in http.get("/api/system").json()["jobs"].items() if count})
    assert models(http)["tiny"]["panel"] == "image"
    assert models(http)["starter-text"]["context"] == 8192
    loaded = http.post("/api/models/load", json={"model": "tiny"})
    assert loaded.status_code == 200
    assert (loaded.json()["model"], loaded.json()["state"]) == ("tiny", "ready")
    assert models(http)["tiny"]["loaded"] is True
    pid = loaded.json()["pid"]
    assert psutil.pid_exists(pid)
    assert http.post("/api/models/unload", json={"model": "tiny"}).json() == {"model": "tiny", "loaded": False}
    assert models(http)["tiny"]["loaded"] is False
    assert not psutil.pid_exists(pid)
    assert http.post("/api/models/unload", json={"model": "tiny"}).status_code == 409


def test_a_model_that_cannot_be_used_is_told(http: httpx.Client, model_folder: Path) -> None:
    broken = model_folder / "broken.gguf"
    broken.write_bytes(b"GGUF")
    try:
        problems = http.get("/api/models").json()["problems"]
        assert [line for line in problems if "broken.gguf" in line]
        assert http.post("/v1/completions", json={"model": "broken", "prompt": "a"}).status_code == 404
    finally:
        broken.unlink()


def test_pull(http: httpx.Client) -> None:
    """Both starter models are there: nothing is fetched, the file's checksum is."""
    answer = http.post("/api/models/pull", json={"model": "starter-text"})
    assert answer.status_code == 200
    assert answer.json()["id"] == "starter-text"
    with http.stream("POST", "/api/models/pull", json={"model": "starter-text", "stream": True}) as streamed:
        events = [json.loads(line[6:]) for line in streamed.iter_lines() if line.startswith("data: ")]
    assert [event["type"] for event in events] == ["progress", "finished"]
    assert events[-1]["model"]["id"] == "starter-text"
    with http.stream("POST", "/api/models/pull", json={"model": "nothing", "stream": True}) as streamed:
        events = [json.loads(line[6:]) for line in streamed.iter_lines() if line.startswith("data: ")]
    assert [event["type"] for event in events] == ["error"]
    assert "starter-text" in events[0]["error"]["message"]


def test_system(http: httpx.Client) -> None:
    found = http.get("/api/system").json()
    assert set(found) == {"version", "uptime_seconds", "devices", "runners", "queue", "jobs"}
    device = found["devices"][0]
    assert device["cores"] >= 1
    assert device["threads"] == 1
    assert 0 < device["memory_free"] < device["memory_total"]
    assert set(found["jobs"]) == {"queued", "running", "succeeded", "failed", "cancelled"}


def references(value: Any) -> set[str]:
    if isinstance(value, dict):
        own = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
        return own.union(*map(references, value.values()))
    return set().union(*map(references, value)) if isinstance(value, list) else set()


def test_openapi_is_whole(http: httpx.Client) -> None:
    document = http.get("/openapi.json").json()
    schemas = document["components"]["schemas"]
    assert {found.rpartition("/")[2] for found in references(document)} <= set(schemas)
    for name in ("JobRequest", "ChatRequest", "CompletionRequest", "ImageRequest", "ModelRequest", "PullRequest"):
        assert schemas[name]["examples"], name
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            assert operation["description"], (path, method)
            assert "422" not in operation["responses"]
            assert ("requestBody" in operation) == (method == "post" and not path.endswith("/cancel")), path


def test_examples_of_the_description_are_valid() -> None:
    from diptych.app import BODIES

    for model in BODIES:
        for example in model.model_json_schema()["examples"]:
            model.model_validate(example)


def test_start_is_quick_and_small(tmp_path: Path) -> None:
    """Ready within 1.5 s on an idle core and under 150 MB; the bound on time allows for a busy machine. No engine's
    library is in the process."""
    for _ in range(2):  # the first start also makes the database
        server = Server(tmp_path / "data", warm_spare=False)
        try:
            seconds = server.wait()
            process = psutil.Process(server.process.pid)
            assert process.memory_info().rss < 150e6
            assert seconds < 10
            loaded = {Path(item.path).name for item in process.memory_maps()}
            assert not [name for name in loaded if name.startswith(("libtorch", "libllama"))]
        finally:
            assert server.stop() == 0


def test_it_ends_although_somebody_listens(tmp_path: Path, model_folder: Path) -> None:
    """Event streams end with the server, the running job is taken up by the next."""
    server = Server(tmp_path / "data", model_dirs=[str(model_folder)], warm_spare=False)
    server.wait()
    slow = {"model": "tiny", "prompt": "slow", "width": 256, "height": 256, "steps": 900, "count": 16}
    id = httpx.post(f"{server.url}/api/jobs", json=slow).json()["id"]
    with httpx.stream("GET", f"{server.url}/api/jobs/{id}/events", timeout=60) as answer:
        lines = answer.iter_lines()
        while "progress" not in next(lines):
            pass
        start = time.monotonic()
        assert server.stop(signal.SIGINT) == 0
        assert time.monotonic() - start < 15
        list(lines)
    assert "Traceback" not in server.log
    again = Server(tmp_path / "data", model_dirs=[str(model_folder)], warm_spare=False)
    try:
        again.wait()
        found = httpx.get(f"{again.url}/api/jobs/{id}").json()
        assert found["state"] in ("queued", "running")
        httpx.post(f"{again.url}/api/jobs/{id}/cancel")
    finally:
        assert again.stop() == 0


def test_port_that_is_taken(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(Unavailable, match=rf"port {port}: it is taken; give another port with --port"):
            serve(Settings(data_dir=tmp_path, port=port))


@pytest.mark.parametrize(("settings", "param"), [({"host": "0.0.0.0"}, "host"), ({"log_level": "loud"}, "log_level")])
def test_settings_that_are_refused(tmp_path: Path, settings: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        serve(Settings(data_dir=tmp_path, **settings))
    assert refused.value.param == param


def test_data_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Unavailable, match="cannot be used"):
        make_folders(Settings(data_dir=tmp_path / "file" / "data"))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_full_disk(tmp_path: Path) -> None:
    Settings(data_dir=tmp_path)
    (tmp_path / ".write-test").symlink_to("/dev/full")
    with pytest.raises(Unavailable, match="make room on the disk") as told:
        make_folders(Settings(data_dir=tmp_path))
    assert os.strerror(errno.ENOSPC) in told.value.message


def test_no_engine_is_imported() -> None:
    code = "import sys, diptych.app; print(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert not {"torch", "diffusers", "transformers", "xllamacpp", "numpy", "alembic"} & set(done.stdout.split())
