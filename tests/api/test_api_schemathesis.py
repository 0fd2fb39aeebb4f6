"""schemathesis over the API's own description, on a real server with an administrator's key: nothing is a 5xx."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

SECONDS = 45
"""A busy machine may not get through all operations in this time; a quiet one needs about half of it."""
#: What is left out, and why.
NOT_HERE = {
    "/api/models/pull": "reaches into the network",
    "/api/models/unload": "breaks off the work of the other requests, which are then rightly a 503",
    "/v1/images/generations": "paints: seconds for each example; its bad requests are in test_api_refusals.py",
    "/v1/images/edits": "paints; its bad requests are in tests/image_canvas/test_edits.py",
    "/v1/images/variations": "paints; its bad requests are in tests/image_canvas/test_edits.py",
}


@pytest.fixture
def secured(server: Any, tmp_path: Path, starter_text: Path) -> Iterator[tuple[str, str]]:
    """A server that wants a key, with its model loaded; its address and an administrator's key."""
    data = tmp_path / "data"
    (data / "models").mkdir(parents=True)
    (data / "models" / "starter-text").symlink_to(starter_text.parent)
    made = subprocess.run(
        [sys.executable, "-m", "diptych", "key", "create", "fuzz", "--scope", "admin", "--data-dir", str(data),
         "--json"],
        capture_output=True, text=True, check=True, env={**os.environ, "DIPTYCH_CONFIG": str(data / "none.toml")})
    key = json.loads(made.stdout)["key"]
    own = type(server)(data, text_context=256, text_slots=4, warm_spare=False, require_key=True, threads=2)
    try:
        own.wait()
        with httpx.Client(base_url=own.url, timeout=120, headers={"Authorization": f"Bearer {key}"}) as http:
            assert http.post("/api/models/load", json={"model": "starter-text"}).status_code == 200
        yield own.url, key
    finally:
        status = own.stop()
    assert status == 0 and "Traceback" not in own.log


def test_no_request_of_the_description_is_a_fault_of_the_server(secured: tuple[str, str], tmp_path: Path) -> None:
    """Examples, the limits of every field, and random values, valid and not."""
    url, key = secured
    done = subprocess.run(
        [sys.executable, "-m", "schemathesis.cli", "--no-color", "run", f"{url}/openapi.json",
         "-H", f"Authorization: Bearer {key}", "--checks", "not_a_server_error",
         "--phases", "examples,coverage,fuzzing", "--max-examples", "3", "--max-time", str(SECONDS),
         # One thread: Python 3.11's parser fails when two threads parse source at once, as hypothesis does.
         "--no-shrink", "--seed", "1", "--workers", "1",
         "--request-timeout", "60", "--continue-on-failure",
         "--exclude-path-regex", f"^({'|'.join(map(re.escape, NOT_HERE))})$"],
        capture_output=True, text=True, timeout=SECONDS * 4, cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    paths = httpx.get(f"{url}/openapi.json").json()["paths"]
    operations = sum(method != "parameters" for methods in paths.values() for method in methods)
    tested, made = (re.search(pattern, done.stdout) for pattern in (r"Tested: (\d+)", r"(\d+) generated, (\d+) passed"))
    assert tested is not None and made is not None and made[1] == made[2], done.stdout[-3000:]
    if "Time limit reached" not in done.stdout:
        assert int(tested[1]) == operations - len(NOT_HERE) and int(made[1]) > operations * 2, done.stdout[-3000:]
