"""Structured logs: fields, formats, files; what they never hold."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from diptych.core import logs
from diptych.core.logs import bound, logging_to, run_fields

Until = Callable[..., Any]
HEX = set("0123456789abcdef")
log = logging.getLogger("diptych.test")


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def ours(file: Path) -> list[dict[str, Any]]:
    """The lines of a runner's log that are not printed by native code or another library."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line.startswith("{")]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "diptych.log"


def test_a_line_says_what_it_is_about(file: Path) -> None:
    async def work() -> None:
        with bound(job_id="j1", model=None):
            await asyncio.create_task(inner())
        log.info("after")

    async def inner() -> None:
        log.info("inside %d", 1, extra={"fields": {"status": 200}})

    def elsewhere() -> None:
        log.info("in a thread", extra=run_fields("j2-3"))

    with logging_to(logging.INFO, "text", file, runner_id="r1"), bound(request_id="q1"):
        asyncio.run(work())
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
    inside, after, thrown = lines(file)
    assert inside["message"] == "inside 1"
    assert (inside["level"], inside["logger"], inside["timestamp"][-1]) == ("info", "diptych.test", "Z")
    assert {name: inside[name] for name in ("job_id", "request_id", "runner_id", "status")} == {
        "job_id": "j1", "request_id": "q1", "runner_id": "r1", "status": 200}
    assert "model" not in inside
    assert "job_id" not in after
    assert (thrown["job_id"], thrown["run_id"], thrown["runner_id"]) == ("j2", "j2-3", "r1")


@pytest.mark.parametrize("format", ["text", "json"])
def test_no_line_can_be_forged(file: Path, capfd: pytest.CaptureFixture[str], format: Any) -> None:
    evil = "x\n2026-01-01T00:00:00.000Z INFO root: forged\r\x1b[31m\u2028\x85y"
    with logging_to(logging.INFO, format, file), bound(request_id=evil):
        log.info("seen: %s", evil)
    text = capfd.readouterr().err
    assert len(text.splitlines()) == 1
    assert "\x1b" not in text
    (line,) = file.read_text().splitlines()
    assert json.loads(line)["message"] == f"seen: {evil}"


def test_a_fault_is_one_line_of_json_and_an_indented_text(file: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with logging_to(logging.INFO, "text", file):
        try:
            raise ValueError("no such\nthing")
        except ValueError:
            log.exception("it failed")
    (line,) = lines(file)
    assert line["error"] == "ValueError: no such"
    assert "Traceback" in line["exception"]
    first, *rest = capfd.readouterr().err.rstrip().splitlines()
    assert first.endswith("ERROR diptych.test: it failed: ValueError: no such")
    assert rest and all(part.startswith("    ") for part in rest)


def test_files_are_rotated_and_logging_is_as_before(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "FILE_BYTES", 2000)
    root = logging.getLogger()
    before = (list(root.handlers), root.level)
    with logging_to(logging.INFO, "json", file):
        for number in range(200):
            log.info("line %d", number)
    assert sorted(path.name for path in file.parent.iterdir()) == [
        "diptych.log", "diptych.log.1", "diptych.log.2", "diptych.log.3"]
    assert all(path.stat().st_size <= 2000 for path in file.parent.iterdir())
    assert lines(file)[-1]["message"] == "line 199"
    assert (list(root.handlers), root.level) == before


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk_disturbs_nobody(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "full.log").symlink_to("/dev/full")
    with logging_to(logging.INFO, "text", tmp_path / "full.log"):
        log.info("said")
    assert len(capfd.readouterr().err.splitlines()) == 1


def test_a_runners_own_file_does_not_grow_for_ever(tmp_path: Path) -> None:
    code = ("import logging\nfrom diptych.core import logs\nlogs.FILE_BYTES = 5000\n"
            "with logs.logging_to(20, 'json', own_file=True, runner_id='r'):\n"
            "    for number in range(300): logging.info('line %d', number)\n")
    with (tmp_path / "err").open("ab") as err:
        subprocess.run([sys.executable, "-c", code], stderr=err, check=True, timeout=60)
    assert (tmp_path / "err").stat().st_size < 6000
    assert lines(tmp_path / "err")[-1]["message"] == "line 299"


def test_requests_have_ids(http: httpx.Client) -> None:
    assert http.get("/health", headers={"x-request-id": "my.request-1:2"}).headers["x-request-id"] == "my.request-1:2"
    made = set()
    for bad in ("", "a b", "x" * 101, "-x", "é", "<script>", 'a"b'):
        given = http.get("/health", headers={"x-request-id": bad.encode()}).headers["x-request-id"]
        assert len(given) == 16 and set(given) <= HEX, bad
        made.add(given)
    assert len(made) == 7
    assert http.get("/no/such").headers["x-request-id"]
    assert http.get("/health", headers={"host": "evil.example"}).headers["x-request-id"]
    assert http.post("/api/jobs", content=b"{").headers["x-request-id"]


def test_a_request_can_be_followed(http: httpx.Client, watched: Any, until: Until) -> None:
    secret = "violet zeppelin over Ouagadougou"
    picture = {"model": "tiny", "prompt": secret, "width": 64, "height": 64, "steps": 2}
    id = http.post("/api/jobs?why=because", json=picture, headers={"x-request-id": "job-1"}).json()["id"]
    until(lambda: http.get(f"/api/jobs/{id}").json()["state"] == "succeeded")
    chat = {"model": "starter-text", "messages": [{"role": "user", "content": secret}], "max_tokens": 4}
    http.post("/v1/chat/completions", json=chat, headers={
        "x-request-id": "chat-1", "authorization": "Bearer dpt_secret-key"}).raise_for_status()
    http.post("/api/jobs", json={**picture, "steps": secret})
    folder = watched.data_dir / "logs"
    gateway = lines(folder / "diptych.log")
    (accepted,) = [line for line in gateway if line.get("request_id") == "job-1"]
    assert accepted["logger"] == "diptych.access"
    assert (accepted["method"], accepted["route"], accepted["status"]) == ("POST", "/api/jobs", 201)
    assert accepted["seconds"] > 0
    attempt = [line for line in gateway if line.get("job_id") == id]
    assert len(attempt) == 2 and all(line["model"] == "tiny" and line["runner_id"] for line in attempt)
    runner = ours(folder / f"runner-{attempt[0]['runner_id']}.log")
    assert [line for line in runner if line.get("job_id") == id and line["runner_id"] == attempt[0]["runner_id"]]
    everywhere = "".join(path.read_text() for path in folder.iterdir())
    (followed,) = {line.split('"runner_id": "')[1].split('"')[0] for line in everywhere.splitlines()
                   if '"chat-1"' in line and "runner_id" in line}
    assert [line for line in ours(folder / f"runner-{followed}.log") if line.get("request_id") == "chat-1"]
    console = watched.log
    for text in (everywhere, console):
        assert secret not in text and "zeppelin" not in text
        assert "secret-key" not in text
        assert "because" not in text
    assert all(json.loads(line) for line in console.splitlines())  # log_format json


def test_probes_are_quiet(http: httpx.Client, watched: Any) -> None:
    for path in ("/health", "/ready", "/metrics"):
        http.get(path, headers={"x-request-id": f"probe{path.replace('/', '-')}"})
    assert "probe-" not in (watched.data_dir / "logs" / "diptych.log").read_text()
