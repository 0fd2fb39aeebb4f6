"""Model files that are cut in half: before they are used, while they wait to be used, and while a runner has them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from fault_studio import BODY, Studio, Undisturbed

HELLO = {"messages": [{"role": "user", "content": "Hello."}], "max_tokens": 2}


@pytest.fixture
def models(studio: Studio) -> Iterator[Path]:
    """A folder of the studio's own models; what the test puts there is removed."""
    folder = studio.data_dir / "models" / "copies"
    folder.mkdir()
    yield folder
    shutil.rmtree(folder)


def cut_in_half(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def test_cut_in_half_before_and_while_a_job_waits(
    studio: Studio, models: Path, model_folder: Path, starter_text: Path, undisturbed: Undisturbed,
) -> None:
    calm = undisturbed()
    shutil.copytree(model_folder / "tiny", models / "tiny-copy")
    shutil.copy(starter_text, models / "text-copy.gguf")
    unet = next((models / "tiny-copy" / "unet").glob("*.safetensors"))
    before = unet.read_bytes()
    cut_in_half(unet)
    cut_in_half(models / "text-copy.gguf")
    problems = studio.http.get("/api/models").json()["problems"]
    for name in ("tiny-copy", "text-copy"):
        assert any(name in line and "cut short" in line for line in problems), problems
    for path, body in (("/api/jobs", {**BODY, "model": "tiny-copy"}),
                       ("/v1/chat/completions", {**HELLO, "model": "text-copy"})):
        refused = studio.http.post(path, json=body)
        assert refused.status_code == 404
        assert "cut short" in refused.json()["error"]["message"]

    unet.write_bytes(before)  # whole again, and cut once more while its job waits behind another
    first = studio.submit()
    waiting = studio.submit(model="tiny-copy")
    cut_in_half(unet)
    failed = studio.ended(waiting)
    assert failed["state"] == "failed"
    assert "cut short" in failed["error"]
    assert studio.hashes(studio.ended(first)) == calm


def test_cut_in_half_while_a_runner_has_it(
    studio: Studio, models: Path, starter_text: Path, undisturbed: Undisturbed,
) -> None:
    """A mapped file that loses its second half takes the process down that reads there; no other."""
    calm = undisturbed()
    studio.http.post("/api/models/unload", json={"model": "starter-text"})
    copy = models / "text-copy.gguf"
    shutil.copy(starter_text, copy)
    assert studio.chat(model="text-copy")
    id = studio.submit()
    studio.first_picture(id)
    cut_in_half(copy)
    with pytest.raises(httpx.HTTPStatusError) as refused:
        for _ in range(3):
            studio.chat(model="text-copy", max_tokens=8)
    assert refused.value.response.status_code in (404, 503)
    assert studio.hashes(studio.ended(id)) == calm
    assert studio.chat()
