"""Model files that are cut in half: before they are used, while they wait to be used, and while a runner has them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from fault_studio import BODY

from conftest import Open


def cut_in_half(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def test_cut_in_half(
    studio: Open, tmp_path: Path, model_folder: Path, starter_text: Path,
    undisturbed: Callable[[dict[str, Any]], list[str]],
) -> None:
    models = tmp_path / "copies"
    shutil.copytree(model_folder / "tiny", models / "tiny-copy")
    shutil.copy(starter_text, models / "text-copy.gguf")
    unet = next((models / "tiny-copy" / "unet").glob("*.safetensors"))
    one = studio(model_dirs=[str(model_folder), str(models)], runner_hang_seconds=5)

    before = unet.read_bytes()
    cut_in_half(unet)
    cut_in_half(models / "text-copy.gguf")
    problems = one.http.get("/api/models").json()["problems"]
    assert any("tiny-copy" in line and "cut short" in line for line in problems), problems
    assert any("text-copy" in line and "cut short" in line for line in problems), problems
    for path, body in (
            ("/api/jobs", {**BODY, "model": "tiny-copy"}),
            ("/v1/chat/completions", {"model": "text-copy", "messages": [{"role": "user", "content": "Hello."}]})):
        refused = one.http.post(path, json=body)
        assert refused.status_code == 404
        assert "cut short" in refused.json()["error"]["message"]

    unet.write_bytes(before)  # whole again, and cut once more while its job waits behind another
    first = one.submit()
    waiting = one.submit(model="tiny-copy")
    cut_in_half(unet)
    failed = one.ended(waiting)
    assert failed["state"] == "failed"
    assert "cut short" in failed["error"]
    assert one.hashes(one.ended(first)) == undisturbed(BODY)


def test_cut_in_half_while_a_runner_has_it(
    studio: Open, tmp_path: Path, model_folder: Path, starter_text: Path,
    undisturbed: Callable[[dict[str, Any]], list[str]],
) -> None:
    copy = tmp_path / "copies" / "text-copy.gguf"
    copy.parent.mkdir()
    shutil.copy(starter_text, copy)
    one = studio(model_dirs=[str(model_folder), str(copy.parent)])
    assert one.chat(model="text-copy")
    id = one.submit()
    one.first_picture(id)
    cut_in_half(copy)
    with pytest.raises(httpx.HTTPStatusError) as refused:
        for _ in range(3):
            one.chat(model="text-copy", max_tokens=8)
    assert refused.value.response.status_code in (404, 503)
    assert one.hashes(one.ended(id)) == undisturbed(BODY)
    shutil.copy(starter_text, copy.with_suffix(".part"))
    copy.with_suffix(".part").replace(copy)
    one.until(lambda: one.http.post("/v1/chat/completions", json={
        "model": "text-copy", "messages": [{"role": "user", "content": "Hello."}], "max_tokens": 2,
    }).status_code == 200)
