"""`diptych chat` with forms, tools, pictures and documents; `classify`, `translate` and `embed`; on a real server."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from PIL import Image

Run = Callable[..., subprocess.CompletedProcess[str]]
PERSON = {"type": "object", "required": ["name", "age"], "additionalProperties": False, "properties": {
    "name": {"type": "string", "maxLength": 12}, "age": {"type": "integer", "minimum": 0, "maximum": 120}}}
WEATHER = {"name": "weather", "description": "Weather of a city", "parameters": {
    "type": "object", "properties": {"city": {"enum": ["Paris"]}}, "required": ["city"], "additionalProperties": False}}
CALL = {"name": "weather", "arguments": {"city": "Paris"}}
LABELS = ("-l", "positive", "-l", "negative")


def error(done: subprocess.CompletedProcess[str], status: int) -> str:
    """The one line on standard error."""
    assert done.returncode == status, done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("diptych: "), done.stderr
    return lines[0]


def ended(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """The folder that commands run in, with files of each kind."""
    (tmp_path / "person.json").write_text(json.dumps(PERSON))
    (tmp_path / "weather.json").write_text(json.dumps(WEATHER))
    (tmp_path / "offer.txt").write_text("The red bicycle costs 250 euros. The blue one costs 300 euros.")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "empty.txt").write_text(" ")
    Image.new("RGB", (8, 8)).save(tmp_path / "dot.png")
    return tmp_path


def test_json_schema(ask: Run, files: Path) -> None:
    for schema in ("person.json", json.dumps(PERSON)):
        made = json.loads(ended(ask("chat", "Invent a person.", "--json-schema", schema, "--max-tokens", 60)))
        assert set(made) == {"name", "age"} and 0 <= made["age"] <= 120
    cut = ask("chat", "Invent a person.", "--json-schema", "person.json", "--max-tokens", 2)
    assert "cut off" in error(cut, 1)


def test_tools_whose_calls_are_printed(ask: Run, files: Path) -> None:
    """A definition in a file, written out, in OpenAI's shape, or at an address."""
    class Serving(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps([WEATHER]).encode())

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Serving)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        url = f"http://127.0.0.1:{server.server_port}/weather"
        for tool in ("weather.json", json.dumps({"type": "function", "function": WEATHER}), url):
            out = ended(ask("chat", "How is the weather in Paris?", "--tool", tool, "--tool-choice", "required"))
            assert json.loads(out) == CALL
    finally:
        server.shutdown()
        server.server_close()
    named = ended(ask("chat", "Hello.", "--tool", "weather.json", "--tool-choice", "weather", "--json"))
    call = json.loads(named)["choices"][0]["message"]["tool_calls"][0]["function"]
    assert {"name": call["name"], "arguments": json.loads(call["arguments"])} == CALL


def test_tools_that_the_server_runs(run: Run, models: Path, files: Path) -> None:
    """The name of a registered function; its calls are told on standard error."""
    (files / "cli_tools.py").write_text('def clock(city: str) -> str:\n    """Time in a city."""\n    return "noon"\n')
    data = files / "data"
    (data / "models").mkdir(parents=True)
    (data / "models" / "starter-text").symlink_to((models / "starter-text").resolve())
    done = run("chat", "What time is it in Paris?", "--tool", "clock", "--tool-choice", "required", "--temperature", 0,
               "--max-tokens", 80, "--data-dir", data, DIPTYCH_TOOLS='["cli_tools:clock"]', PYTHONPATH=str(files))
    assert "→ clock(" in done.stderr and "← noon" in done.stderr, done.stderr
    assert done.stdout.strip() or done.returncode == 1


def test_documents(ask: Run, files: Path) -> None:
    done = ask("chat", "What does the red bicycle cost?", "--doc", "offer.txt", "--temperature", 0, "--max-tokens", 30)
    ended(done)
    assert "250" in done.stdout
    cited = [line for line in done.stderr.splitlines() if line.startswith("[")]
    assert cited and "offer.txt" in cited[0], done.stderr


def test_whole_answer(ask: Run) -> None:
    told = json.loads(ended(ask("chat", "Say hello.", "--system", "Be brief.", "--max-tokens", 4, "--json")))
    assert told["object"] == "chat.completion" and told["usage"]["completion_tokens"] == 4


@pytest.mark.parametrize(("flags", "status", "words"), [
    (["--json-schema", "nothing.json"], 2, "nothing.json"), (["--json-schema", "broken.json"], 2, "no JSON"),
    (["--json-schema", '{"type": 5}'], 1, "response_format"), (["--tool", "broken.json"], 2, "no JSON"),
    (["--tool", '{"description": "x"}'], 2, "no name"), (["--tool", "nobody"], 1, "nobody"),
    (["--tool", "http://127.0.0.1:1/x"], 1, "127.0.0.1:1"), (["--tool-choice", "required"], 2, "--tool"),
    (["--tool", "weather.json", "--tool", "clock"], 2, "not both"), (["--image", "offer.txt"], 2, "no picture"),
    (["--image", "nothing.png"], 2, "nothing.png"), (["--image", "dot.png"], 1, "cannot see pictures"),
    (["--doc", "nothing.txt"], 2, "nothing.txt"), (["--doc", "latin.txt"], 2, "UTF-8"),
    (["--doc", "empty.txt"], 2, "no text"),
])
def test_refused_chats(ask: Run, files: Path, flags: list[str], status: int, words: str) -> None:
    assert words in error(ask("chat", "Hello.", *flags), status)


def test_classify(ask: Run, files: Path) -> None:
    table = ended(ask("classify", "I love this film, it is wonderful!", *LABELS))
    rows = [line.split() for line in table.splitlines() if "%" in line]
    assert [row[0] for row in rows] == ["positive", "negative"]
    lines = ["I love this film, it is wonderful!", "This was awful, I hate it."]
    piped = json.loads(ended(ask("classify", *LABELS, "--json", stdin="\n\n".join(lines))))
    assert [one["text"] for one in piped["results"]] == lines
    assert [one["label"] for one in piped["results"]] == ["positive", "negative"]
    (files / "texts.txt").write_text("\n".join(lines))
    several = ended(ask("classify", "--file", "texts.txt", *LABELS, "--example", "positive=Great!"))
    assert "This was awful" in several and several.count("%") == 2
    both = json.loads(ended(ask("classify", "Fry the onions.", "-l", "cooking=food and recipes", "--multi", "--json")))
    assert 0 <= both["results"][0]["scores"]["cooking"] <= 1


def test_translate(ask: Run, files: Path) -> None:
    (files / "text.md").write_text("Good morning!")
    for arguments in (["Good morning!"], ["--file", "text.md"]):
        told = json.loads(ended(ask("translate", *arguments, "--to", "French", "--term", "morning=matin", "--json")))
        assert len(told["translations"]) == 1 and told["translations"][0]["text"]
    assert ended(ask("translate", "--to", "French", stdin="Good morning!")).strip()


def test_embed(ask: Run) -> None:
    told = json.loads(ended(ask("embed", "a cat", "a car", "--json", "--dimensions", "8")))
    assert told["dimensions"] == 8 and [one["text"] for one in told["data"]] == ["a cat", "a car"]
    assert all(len(one["embedding"]) == 8 for one in told["data"])
    table = ask("embed", "a cat", "a car")
    assert ended(table).count("1.00") == 2 and "2 vectors of 576 numbers" in table.stderr
    assert "…]" in ended(ask("embed", "a cat"))


@pytest.mark.parametrize(("arguments", "status", "words"), [
    (["classify", "x"], 2, "no label"), (["classify", "x", "-l", "a"], 1, "labels"),
    (["classify", *LABELS], 2, "no text"), (["classify", "x", "--classifier", "nobody"], 1, "nobody"),
    (["classify", "x", "--classifier", "a", *LABELS], 2, "own"),
    (["classify", "x", *LABELS, "--example", "oops"], 2, "LABEL=TEXT"),
    (["classify", "x", "--file", "y", *LABELS], 2, "either"),
    (["classify", "--file", "nothing", *LABELS], 2, "nothing"),
    (["translate", "x"], 2, "--to"), (["translate", "--to", "French"], 2, "no text"),
    (["translate", "x", "--to", "French", "--term", "oops"], 2, "WORD=WORD"),
    (["translate", "x", "--to", "French", "--model", "nothing"], 1, "nothing"),
    (["embed"], 2, "no text"), (["embed", "x", "--dimensions", "0"], 1, "dimensions"),
    (["embed", "x", "--model", "tiny"], 1, "tiny"),
])
def test_refused_tasks(ask: Run, arguments: list[str], status: int, words: str) -> None:
    assert words in error(ask(*arguments), status)


@pytest.mark.parametrize("name", ["chat", "classify", "translate", "embed"])
def test_help_has_examples(run: Run, name: str) -> None:
    told: Any = ended(run(name, "--help"))
    assert f"Examples:\n  {'  '}diptych {name}" in told or f"    diptych {name}" in told
