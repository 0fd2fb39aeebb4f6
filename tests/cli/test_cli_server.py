"""The real `diptych` command against a real server with real models."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

Run = Callable[..., subprocess.CompletedProcess[str]]
PARIS = "What is the capital of France? Answer in one sentence."
TINY = ("--model", "tiny", "--size", "64x64", "--steps", "3")


def spec_in(file: Path) -> dict[str, Any]:
    with Image.open(file) as picture:
        found: dict[str, Any] = json.loads(picture.text["diptych"])["spec"]  # type: ignore[attr-defined]
    return found


def one_line(done: subprocess.CompletedProcess[str], status: int = 1) -> str:
    assert done.returncode == status, done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("diptych: ")
    return lines[0]


def test_image(ask: Run, tmp_path: Path) -> None:
    done = ask("image", "A red apple!", *TINY, "-n", "3", "--seed", "5", "-o", "out/")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [f"out/a-red-apple-{seed}.png" for seed in (5, 6, 7)]
    files = [tmp_path / name for name in done.stdout.split()]
    assert [spec_in(file)["seed"] for file in files] == [5, 6, 7]
    with Image.open(files[0]) as picture:
        assert picture.size == (64, 64)
    assert len({file.read_bytes() for file in files}) == 3
    again = ask("image", "A red apple!", *TINY, "--seed", "5", "-o", "out/")
    assert again.stdout.split() == ["out/a-red-apple-5-2.png"]  # nothing is written over


def test_image_options_reach_the_spec(ask: Run, tmp_path: Path) -> None:
    done = ask("image", "x", "--model", "tiny", "--size", "64x32", "--steps", "2", "--sampler", "dpm++ 2m karras",
               "--guidance", "3.5", "--negative", "blue", "--seed", "9", "-o", "one.png", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["files"] == ["one.png"]
    assert report["job"]["state"] == "succeeded"
    wanted = {
        "kind": "image", "model": "tiny", "prompt": "x", "negative_prompt": "blue", "width": 64, "height": 32,
        "steps": 2, "guidance": 3.5, "sampler": "DPM++ 2M", "schedule": "karras", "seed": 9, "count": 1,
        "preview_every": 0}
    found = spec_in(tmp_path / "one.png")
    assert {name: found[name] for name in wanted} == wanted


@pytest.mark.parametrize(("flags", "words"), [
    (["--steps", "0"], "steps"), (["--size", "63x64"], "width"), (["--sampler", "Foo"], "Foo"),
    (["--guidance", "nan"], "guidance"), (["-n", "0"], "count"), (["--model", "nothing"], "nothing"),
    (["--model", "starter-text"], "starter-text"), (["--seed", "-2"], "seed"),
])
def test_refused_pictures(ask: Run, flags: list[str], words: str) -> None:
    assert words in one_line(ask("image", "a cat", "--model", "tiny", *flags))


def test_empty_prompt(ask: Run) -> None:
    assert "prompt" in one_line(ask("image", "", "--model", "tiny"))


def test_output_that_cannot_be_written(ask: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "cannot write" in one_line(ask("image", "a", *TINY, "-o", "file/inside"))


def test_rerun_of_one_made_in_a_batch(ask: Run) -> None:
    made = ask("image", "a green cat", *TINY, "-n", "2", "--sampler", "Euler a", "-o", "out").stdout.split()
    report = json.loads(ask("rerun", made[1], "--json").stdout)
    assert report["same_picture"] is True
    assert report["max_difference"] <= 2


def test_rerun_is_identical(ask: Run, tmp_path: Path) -> None:
    made = ask("image", "a green cat", *TINY, "--sampler", "Euler a", "-o", "out").stdout.split()
    done = ask("rerun", made[0], "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["identical"] is True
    assert Path(report["file"]).name == f"{Path(made[0]).stem}-rerun.png"
    with Image.open(tmp_path / made[0]) as picture:
        changed = picture.convert("RGB")
        text = picture.text  # type: ignore[attr-defined]
    changed.putpixel((0, 0), tuple(255 - value for value in changed.getpixel((0, 0))))  # type: ignore[union-attr]
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text("diptych", text["diptych"])
    changed.save(tmp_path / "changed.png", pnginfo=info)
    told = ask("rerun", "changed.png", "-o", "new")
    assert told.returncode == 0, told.stderr
    assert "Not the same picture" in told.stderr


def test_jobs(ask: Run, tmp_path: Path) -> None:
    job = json.loads(ask("image", "a blue dog", *TINY, "--json").stdout)["job"]
    listed = ask("jobs", "list")
    row = next(line for line in listed.stdout.splitlines() if job["id"] in line)
    assert "succeeded" in row
    assert "a blue dog" in row
    succeeded = json.loads(ask("jobs", "list", "--state", "succeeded", "--json").stdout)
    assert job["id"] in [item["id"] for item in succeeded]
    shown = ask("jobs", "show", job["id"]).stdout
    assert "a blue dog" in shown
    assert "http://127.0.0.1:" in shown
    watched = ask("jobs", "watch", job["id"], "-o", "kept")
    assert watched.returncode == 0
    assert (tmp_path / watched.stdout.strip()).is_file()
    assert "no-such-job" in one_line(ask("jobs", "show", "no-such-job"))
    assert "no-such-job" in one_line(ask("jobs", "cancel", "no-such-job"))
    assert "state" in one_line(ask("jobs", "list", "--state", "odd"))


def started(*arguments: str, url: str, folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "diptych", *arguments, "--server", url], cwd=folder, text=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "HOME": str(folder)})


def wait_for_job(ask: Run, prompt: str, state: str) -> dict[str, Any]:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for job in json.loads(ask("jobs", "list", "--json").stdout):
            if job["spec"]["prompt"] == prompt and job["state"] == state:
                return dict(job)
        time.sleep(0.2)
    raise AssertionError(f"no job {prompt!r} became {state}")


def test_interrupt_cancels_the_job(ask: Run, server: Any, tmp_path: Path) -> None:
    process = started("image", "slow one", "--model", "tiny", "--size", "256x256", "--steps", "900", "-n", "16",
                      url=server.url, folder=tmp_path)
    wait_for_job(ask, "slow one", "running")
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "cancelling job" in errors
    assert "Traceback" not in errors
    wait_for_job(ask, "slow one", "cancelled")


def test_cancel_from_another_terminal(ask: Run, server: Any, tmp_path: Path) -> None:
    process = started("image", "slow two", "--model", "tiny", "--size", "256x256", "--steps", "900", "-n", "16",
                      url=server.url, folder=tmp_path)
    job = wait_for_job(ask, "slow two", "running")
    assert ask("jobs", "cancel", job["id"]).returncode == 0
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert f"job {job['id']} was cancelled" in errors


def test_chat_one_shot(ask: Run) -> None:
    done = ask("chat", PARIS, "--temperature", "0", "--max-tokens", "24")
    assert done.returncode == 0, done.stderr
    assert "Paris" in done.stdout


def test_chat_piped(ask: Run) -> None:
    alone = ask("chat", "--temperature", "0", "--max-tokens", "24", stdin=PARIS)
    assert alone.returncode == 0, alone.stderr
    assert "Paris" in alone.stdout
    beside = ask("chat", "What is the capital of France?", "--temperature", "0", "--max-tokens", "24",
                 stdin="Answer in one sentence.")
    assert "Paris" in beside.stdout


def test_chat_refused(ask: Run) -> None:
    assert "temperature" in one_line(ask("chat", "hello", "--temperature", "99"))
    assert "nothing" in one_line(ask("chat", "hello", "--model", "nothing"))
    assert "tiny" in one_line(ask("chat", "hello", "--model", "tiny"))


def test_models(ask: Run) -> None:
    listed = ask("models", "list")
    assert {"tiny", "starter-text"} <= {line.split()[0] for line in listed.stdout.splitlines() if line.strip()}
    info = ask("models", "info", "starter-text").stdout
    assert "Apache-2.0" in info or "apache-2.0" in info
    assert "'nothing'" in one_line(ask("models", "info", "nothing"))
    assert ask("models", "load", "tiny").returncode == 0
    loaded = next(item for item in json.loads(ask("models", "list", "--json").stdout) if item["id"] == "tiny")
    assert ask("models", "unload", "tiny").returncode == 0
    unloaded = next(item for item in json.loads(ask("models", "list", "--json").stdout) if item["id"] == "tiny")
    assert loaded != unloaded
    assert "nothing" in one_line(ask("models", "load", "nothing"))


def test_doctor_sees_the_server(ask: Run, server: Any) -> None:
    report = json.loads(ask("doctor", "--json", "--data-dir", server.data_dir).stdout)
    found = next(item for item in report["findings"] if item["name"] == "server")
    assert found["level"] == "ok", found
    assert server.url in found["message"]


def test_second_server_on_the_folder(run: Run, server: Any) -> None:
    line = one_line(run("serve", "--port", "0", "--data-dir", server.data_dir))
    assert server.url in line


def test_port_of_a_diptych(run: Run, server: Any, tmp_path: Path) -> None:
    port = server.url.rpartition(":")[2]
    line = one_line(run("serve", "--port", port, "--data-dir", tmp_path / "other"))
    assert f"a Diptych server already answers at {server.url}" in line
