"""What the command does without any server: help, usage errors, clear lines, addresses."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from diptych.cli.address import exclusive, published, read_address
from diptych.cli.errors import CliError
from diptych.cli.rerun import compare, read_spec

Run = Callable[..., subprocess.CompletedProcess[str]]
HEAVY = ("torch", "diffusers", "transformers", "xllamacpp", "numpy")


def imports(module: str) -> set[str]:
    code = f"import sys, {module}; print(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("module", ["diptych.app", "diptych.cli.main"])
def test_no_heavy_import(module: str) -> None:
    loaded = imports(module)
    assert "diptych" in loaded
    assert not loaded & set(HEAVY)


def test_help_imports_no_http() -> None:
    assert not imports("diptych.cli.main") & {"httpx", "fastapi", "pydantic", "sqlalchemy", "PIL"}


def test_help_lists_all_commands(run: Run) -> None:
    start = time.perf_counter()
    done = run("--help")
    seconds = time.perf_counter() - start
    assert done.returncode == 0
    listed = {line.split()[0] for line in done.stdout.partition("Commands:")[2].splitlines() if line.strip()}
    assert {"serve", "image", "chat", "models", "jobs", "rerun", "doctor", "demo", "version"} <= listed
    assert seconds < 5  # 0.15 s on an idle core; the bound allows for a busy machine


@pytest.mark.parametrize("arguments", [
    ["image"], ["image", "a cat", "--no-such-flag"], ["image", "a cat", "--size", "12by12"], ["no-such-command"],
    ["image", "a cat", "-n", "2", "-o", "one.png"], ["rerun", "no-such-file.png"], ["serve", "--port", "70000"],
    ["jobs", "list", "--limit", "0"],
])
def test_usage_errors_are_status_2(run: Run, arguments: list[str]) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert done.stderr.strip()


def test_no_server_at_the_address(run: Run) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
    for arguments in (["jobs", "list"], ["image", "a cat"], ["chat", "hello"], ["models", "pull", "starter-text"]):
        done = run(*arguments, "--server", url)
        assert done.returncode == 1
        assert done.stderr.strip().splitlines() == [
            f"diptych: no server answers at {url}; start one with: diptych serve"]


def test_server_of_another_kind(run: Run) -> None:
    """A listener that speaks no HTTP: one line, no traceback."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"220 mail ready\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        done = run("jobs", "list", "--server", f"http://127.0.0.1:{listener.getsockname()[1]}")
        thread.join()
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1


def test_wrong_settings_are_named(run: Run) -> None:
    done = run("serve", DIPTYCH_THREADS="many")
    assert done.returncode == 2
    assert done.stderr.startswith("diptych: setting threads:")
    assert "'many'" in done.stderr


def test_wrong_configuration_file(run: Run, tmp_path: Path) -> None:
    (tmp_path / "broken.toml").write_text("port = = 1")
    done = run("serve", DIPTYCH_CONFIG=str(tmp_path / "broken.toml"))
    assert done.returncode == 2
    assert "configuration" in done.stderr
    assert "Traceback" not in done.stderr


def test_taken_port(run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        for name in ("serve", "demo"):
            done = run(name, "--port", port)
            assert done.returncode == 1
            assert f"cannot listen on 127.0.0.1:{port}" in done.stderr
            assert "--port 8000" in done.stderr
            assert len(done.stderr.strip().splitlines()) == 1


def test_data_folder_that_cannot_be_made(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = run("serve", "--port", "0", "--data-dir", tmp_path / "file" / "data")
    assert done.returncode == 1
    assert "data folder" in done.stderr
    assert "Traceback" not in done.stderr


def test_loading_needs_a_server_that_stays(run: Run) -> None:
    done = run("models", "load", "starter")
    assert done.returncode == 1
    assert "diptych serve" in done.stderr


def test_address_file(tmp_path: Path) -> None:
    assert read_address(tmp_path) is None
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with published(tmp_path, url):
            found = read_address(tmp_path)
            assert found is not None
            assert (found.url, found.pid) == (url, os.getpid())
        assert not (tmp_path / "server.json").exists()


@pytest.mark.parametrize("content", [
    "", "{", "[]", '{"url": 1}', '{"url": "http://127.0.0.1:1", "pid": 999999999}', '{"url": "nonsense", "pid": PID}',
    '{"url": "http://127.0.0.1:1", "pid": PID}',
])
def test_stale_address_file(tmp_path: Path, content: str) -> None:
    (tmp_path / "server.json").write_text(content.replace("PID", str(os.getpid())))
    assert read_address(tmp_path) is None


def test_one_server_per_data_folder(tmp_path: Path) -> None:
    with exclusive(tmp_path), pytest.raises(CliError, match="already runs on the data folder"), exclusive(tmp_path):
        pass
    with exclusive(tmp_path):
        pass


def test_rerun_of_files_without_a_description(run: Run, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "plain.png")
    (tmp_path / "text.png").write_text("no picture")
    for name, words in (("plain.png", "carries no text"), ("text.png", "is no picture")):
        done = run("rerun", name)
        assert done.returncode == 1
        assert words in done.stderr
        with pytest.raises(CliError):
            read_spec(tmp_path / name)


def test_compare(tmp_path: Path) -> None:
    for name, size, colour in (("a", 8, (1, 2, 3)), ("b", 8, (1, 2, 8)), ("c", 9, (1, 2, 3))):
        Image.new("RGB", (size, size), colour).save(tmp_path / f"{name}.png")
    a, b, c = (tmp_path / f"{name}.png" for name in "abc")
    assert compare(a, a) == 0
    assert compare(a, b) == 5
    assert compare(a, c) is None


def test_chat_without_a_question(run: Run) -> None:
    done = run("chat")
    assert done.returncode == 2
    assert "no question" in done.stderr


def test_doctor_finds_problems(run: Run, tmp_path: Path) -> None:
    """A fresh data folder has no text model; its JSON says so and the exit status too."""
    done = run("doctor", "--json", "--data-dir", tmp_path / "data")
    report = json.loads(done.stdout)
    levels = {item["name"]: item for item in report["findings"]}
    assert levels["Python"]["level"] in ("ok", "warn")
    assert levels["data folder"]["level"] == "ok"
    assert levels["text models"]["level"] == "problem"
    assert "models pull starter-text" in levels["text models"]["advice"]
    assert report["problems"] == sum(item["level"] == "problem" for item in report["findings"])
    assert done.returncode == 1
    assert all(item["level"] == "ok" or item["advice"] or item["name"] == "port" for item in report["findings"])
