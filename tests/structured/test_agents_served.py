"""Agents and tools through the real server: Python functions, a web service, and two real MCP servers."""

from __future__ import annotations

import json
import threading
import time
from typing import Any

import httpx
import pytest
from tool_studio import Studio

TASK: dict[str, Any] = {"model": "starter-text", "input": "What is the weather in Paris?", "max_tokens": 120, "seed": 1,
                        "max_steps": 2}


def run(http: httpx.Client, **asked: Any) -> dict[str, Any]:
    answer = http.post("/api/agents/run", json={**TASK, **asked})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def first_call(http: httpx.Client, name: str, **asked: Any) -> dict[str, Any]:
    """What came of the forced first call of a tool."""
    found = run(http, **{"tools": [name], "tool_choice": {"name": name}, "max_steps": 1, "max_tokens": 400, **asked})
    assert found["reason"] == "max_steps" and found["tool_calls"][0]["name"] == name, found
    return dict(found["tool_calls"][0])


def test_all_tools_are_listed_and_what_is_down_is_named(http: httpx.Client) -> None:
    found = http.get("/api/tools").json()
    tools = {tool["name"]: tool for tool in found["tools"]}
    assert {"weather", "later", "broken", "long", "echo", "numbers.add", "numbers.fail", "far.add"} <= tools.keys()
    assert tools["weather"]["parameters"]["properties"]["city"]["description"] == "name of the city"
    assert tools["weather"]["description"] == "The weather in a city now." and tools["far.add"]["kind"] == "mcp"
    assert [problem for problem in found["problems"] if "'gone'" in problem]
    assert "s3cr3t-value" not in http.get("/api/tools").text


def test_a_function_is_called_and_its_result_told(http: httpx.Client) -> None:
    found = run(http, tools=["weather"], tool_choice="required")
    assert found["steps"] == 2 and found["output"]
    [call] = [call for call in found["tool_calls"] if call["step"] == 1]
    assert json.loads(call["content"])["degrees"] == 21 and not call["error"]
    assert [message["role"] for message in found["messages"]][:3] == ["assistant", "tool", "assistant"]
    assert found["usage"]["completion_tokens"] <= 120


def test_a_web_service_is_asked_as_it_was_described(http: httpx.Client) -> None:
    told = json.loads(first_call(http, "echo")["content"])
    assert told["method"] == "GET" and told["path"].startswith("/echo/") and told["key"] == "s3cr3t-value"


@pytest.mark.parametrize("server", ["numbers", "far"])
def test_mcp_servers_over_both_transports(http: httpx.Client, server: str) -> None:
    call = first_call(http, f"{server}.add", input="Add 3 and 4.")
    arguments = json.loads(call["arguments"])
    assert call["content"] == str(arguments["a"] + arguments["b"]) and not call["error"]


def test_errors_of_tools_are_results(http: httpx.Client) -> None:
    for name, word in (("broken", "out of order"), ("numbers.fail", "it failed because of")):
        call = first_call(http, name)
        assert call["error"] and word in json.loads(call["content"])["error"]


def test_long_results_are_cut(http: httpx.Client) -> None:
    content = first_call(http, "long", max_result_bytes=101)["content"]
    assert content.startswith("ä" * 50 + "\n[cut off: the result has 100000 bytes")


def test_an_mcp_server_that_died_is_started_again(http: httpx.Client) -> None:
    assert first_call(http, "numbers.end")["error"]
    assert first_call(http, "numbers.add")["content"].lstrip("-").isdigit()


def test_a_run_is_streamed(http: httpx.Client) -> None:
    with http.stream("POST", "/api/agents/run", json={
            **TASK, "tools": ["weather"], "tool_choice": "required", "stream": True}) as answer:
        events = [json.loads(line.removeprefix("data: ")) for line in answer.iter_lines() if line.startswith("data: ")]
    kinds = [event["type"] for event in events]
    assert kinds[:3] == ["step", "tool_call", "tool_result"] and kinds[-1] == "finished" and "token" in kinds
    said = "".join(event["text"] for event in events if event["type"] == "token")
    assert events[-1]["output"] == said


def test_the_answer_has_its_form(http: httpx.Client) -> None:
    schema = {"type": "object", "properties": {"degrees": {"type": "integer", "maximum": 60}}, "required": ["degrees"],
              "additionalProperties": False}
    found = run(http, tools=["weather"], tool_choice="none", response_format={
        "type": "json_schema", "json_schema": {"name": "a", "schema": schema}})
    assert isinstance(json.loads(found["output"])["degrees"], int) and not found["tool_calls"]


def test_a_client_that_goes_ends_the_run(studio: Studio, http: httpx.Client) -> None:
    def leave() -> None:
        with httpx.Client(base_url=studio.url, timeout=2.0) as client, pytest.raises(httpx.ReadTimeout):
            client.post("/api/agents/run", json={**TASK, "tools": ["numbers.wait"], "tool_choice": "required",
                                                 "max_seconds": 600, "max_steps": 50, "max_tokens": 100_000})

    gone = threading.Thread(target=leave)
    gone.start()
    gone.join()
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        runners = http.get("/api/system").json()["runners"]
        if not any(runner.get("running") for runner in runners):
            return
        time.sleep(0.1)
    raise AssertionError(runners)


def test_a_tool_is_registered_used_kept_and_forgotten(studio: Studio, http: httpx.Client) -> None:
    described = {"name": "shout", "description": "Says it louder", "url": f"{studio.service}/shout",
                 "headers": {"X-Secret": "k"}, "parameters": {"type": "object", "properties": {
                     "text": {"type": "string", "maxLength": 10}}, "required": ["text"]}}
    made = http.post("/api/tools", json=described)
    assert made.status_code == 201 and made.json()["removable"] and "headers" not in made.json()
    told = json.loads(first_call(http, "shout")["content"])
    assert told["method"] == "POST" and "text" in json.loads(told["body"]) and told["key"] == "k"
    assert (studio.data_dir / "tools.json").stat().st_mode & 0o077 == 0
    assert http.post("/api/tools", json={**described, "url": f"{studio.service}/teapot"}).status_code == 201
    call = first_call(http, "shout")
    assert call["error"] and "418" in call["content"]
    studio.restart()
    with httpx.Client(base_url=studio.url, timeout=60) as again:
        assert "shout" in [tool["name"] for tool in again.get("/api/tools").json()["tools"]]
        assert again.delete("/api/tools/shout").json() == {"name": "shout", "removed": True}
        assert again.delete("/api/tools/shout").status_code == 404
        assert again.delete("/api/tools/weather").status_code == 409


BAD_RUNS: list[tuple[dict[str, Any], int, str]] = [
    ({"input": None}, 400, "input"), ({"messages": [{"role": "user", "content": "?"}]}, 400, "messages"),
    ({"input": None, "messages": []}, 400, "messages"), ({"input": None, "messages": [3]}, 400, "messages[0]"),
    ({"input": None, "messages": [{"role": "user"}]}, 400, "messages[0].content"),
    ({"tools": ["no_such"]}, 400, "tools[0]"), ({"tools": ["weather", "gone.*"]}, 503, "tools[1]"),
    ({"tools": "weather"}, 400, "tools"), ({"tools": ["weather"], "tool_choice": "sometimes"}, 400, "tool_choice"),
    ({"tools": ["weather"], "tool_choice": {"name": "echo"}}, 400, "tool_choice.name"),
    ({"tools": [], "tool_choice": "required"}, 400, "tool_choice"), ({"model": "none"}, 404, "model"),
    ({"model": ""}, 400, "model"), ({"max_steps": 0}, 400, "max_steps"), ({"max_tokens": 0}, 400, "max_tokens"),
    ({"max_seconds": 0}, 400, "max_seconds"), ({"max_result_bytes": 0}, 400, "max_result_bytes"),
    ({"temperature": 9}, 400, "temperature"), ({"function": "import os"}, 400, "function"),
    ({"response_format": {"type": "regex", "pattern": "("}}, 400, "response_format.pattern"),
    ({"stream": "yes"}, 400, "stream"), ({"input": 3}, 400, "input")]


@pytest.mark.parametrize(("asked", "status", "param"), BAD_RUNS, ids=range(len(BAD_RUNS)))
def test_bad_runs(http: httpx.Client, asked: dict[str, Any], status: int, param: str) -> None:
    answer = http.post("/api/agents/run", json={"tools": ["weather"], **TASK, **asked})
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, param), answer.text


TOOL = {"name": "x", "url": "http://127.0.0.1:9/x"}
BAD_TOOLS: list[tuple[dict[str, Any], int, str]] = [
    ({"name": "x"}, 400, "url"), ({**TOOL, "name": "a b"}, 400, "name"),
    ({**TOOL, "url": "file:///etc/passwd"}, 400, "url"),
    ({**TOOL, "url": "http://user:pw@127.0.0.1/"}, 400, "url"), ({**TOOL, "url": "http://{host}/"}, 400, "url"),
    ({**TOOL, "url": "http://example.org/"}, 403, "url"), ({**TOOL, "url": "http://10.0.0.1/"}, 403, "url"),
    ({**TOOL, "url": "http://127.0.0.1:99999/"}, 400, "url"), ({**TOOL, "method": "PUT"}, 400, "method"),
    ({**TOOL, "headers": {"Host": "a"}}, 400, "headers"), ({**TOOL, "headers": {"X": "a\r\nb"}}, 400, "headers"),
    ({**TOOL, "parameters": {"type": "foo"}}, 400, "parameters.type"), ({**TOOL, "parameters": 3}, 400, "parameters"),
    ({**TOOL, "parameters": {"type": "string"}}, 400, "parameters.type"), ({**TOOL, "name": "weather"}, 409, "name"),
    ({**TOOL, "name": "numbers.add"}, 409, "name"), ({**TOOL, "code": "print()"}, 400, "code"),
    ({**TOOL, "timeout_seconds": 0}, 400, "timeout_seconds")]


@pytest.mark.parametrize(("asked", "status", "param"), BAD_TOOLS, ids=range(len(BAD_TOOLS)))
def test_bad_tools(http: httpx.Client, asked: dict[str, Any], status: int, param: str) -> None:
    answer = http.post("/api/tools", json=asked)
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, param), answer.text
