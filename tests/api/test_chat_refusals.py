"""Bad requests for text: which field is named, with which status, in OpenAI's shape and in Anthropic's."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_api_fuzz import JUNK
from test_api_refusals import CHAT, COMPLETIONS, GOOD, NOT_THERE, RESPONSES, USER, told

from diptych.api.anthropic.schema import MessagesRequest

MESSAGES, COUNT = "/v1/messages", "/v1/messages/count_tokens"
GOOD_HERE: dict[str, dict[str, Any]] = {
    **GOOD, MESSAGES: {"model": "starter-text", "max_tokens": 1, "messages": USER},
    COUNT: {"model": "starter-text", "messages": USER}}


def png(width: int, height: int) -> str:
    from PIL import Image

    file = io.BytesIO()
    Image.new("L", (width, height)).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def function(name: Any = "f", **more: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, **more}}


def image(url: Any) -> list[Any]:
    return [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]


def called(**call: Any) -> list[Any]:
    return [*USER, {"role": "assistant", "tool_calls": [call]}]


def block(role: str = "user", **content: Any) -> list[Any]:
    return [{"role": role, "content": [content]}]


TOOLS = [function("f"), function("g")]
URL = "messages[0].content[0].image_url.url"
CALL = "messages[1].tool_calls[0]"
#: (path, field, value, the `param` of the refusal where it is not the field, other fields)
CASES: list[tuple[Any, ...]] = [
    # sampling, of both kinds
    *((path, *rest) for path in (CHAT, COMPLETIONS) for rest in (
        ("typical_p", 0), ("repeat_last_n", -2), ("dry_multiplier", -1), ("dry_base", 0.5), ("dry_allowed_length", -1),
        ("dry_penalty_last_n", -2), ("dry_sequence_breakers", "x"), ("dry_sequence_breakers", [1],
                                                                     "dry_sequence_breakers[0]"),
        ("logit_bias", 5), ("logit_bias", {"5": 101}), ("logit_bias", {"5": True}), ("logit_bias", {"": 1}),
        ("logit_bias", [[1]]), ("random_seed", -1), ("random_seed", 4, "random_seed", {"seed": 5}),
        ("repetition_penalty", 2, "repetition_penalty", {"repeat_penalty": 3}), ("min_tokens", 5), ("ignore_eos", 1),
        ("repetition_stop", "yes"), ("truncation", "middle"), ("adapters", "x"), ("adapters", [5], "adapters[0]"),
        ("adapters", [{"id": "x", "weight": "big"}], "adapters[0].weight"), ("adapters", [{}], "adapters[0].id"),
        ("adapters", [{"id": "x", "weight": 99}], "adapters[0].weight"), ("lora", [], "lora", {"adapters": []}),
        ("adapters", ["nothing"]), ("mirostat", 2), ("xtc_probability", 0.5), ("n_probs", 3),
        ("include_stop_str_in_output", "x"),
        # forms of the answer
        ("response_format", {"type": "json_schema"}, "response_format.schema"),
        ("response_format", {"type": "json_schema", "json_schema": {}}, "response_format.json_schema.schema"),
        ("response_format", {"type": "json_schema", "json_schema": {"schema": 5}},
         "response_format.json_schema.schema"),
        ("response_format", {"type": "toml"}, "response_format.type"), ("response_format", {}, "response_format.type"),
        ("response_format", {"type": "regex"}, "response_format.pattern"),
        ("response_format", {"type": "choice", "choices": []}, "response_format.choices"),
        ("response_format", {"type": "choice", "choices": [1]}, "response_format.choices[0]"),
        ("guided_json", 5), ("guided_regex", 5), ("guided_choice", "a"), ("grammar", 5), ("json_schema", [1]),
        ("structured_outputs", {"json": {}, "regex": "a"}), ("structured_outputs", {"xyz": 1}),
        ("guided_regex", "a", "guided_regex", {"response_format": {"type": "json_object"}}),
    )),
    # chat
    (CHAT, "tools", {}), (CHAT, "tools", [5], "tools[0]"), (CHAT, "tools", [{"type": "function"}], "tools[0].function"),
    (CHAT, "tools", [{"type": "web"}], "tools[0].type"), (CHAT, "tools", [function("a b")], "tools[0].function.name"),
    (CHAT, "tools", [{"type": "function", "function": {}}], "tools[0].function.name"),
    (CHAT, "tools", [function(parameters=5)], "tools[0].function.parameters"),
    (CHAT, "tools", [function(strict="x")], "tools[0].function.strict"),
    (CHAT, "tools", [function(), function()]), (CHAT, "tool_choice", "sometimes"), (CHAT, "tool_choice", 5),
    (CHAT, "tool_choice", "any"), (CHAT, "tool_choice", function("h"), "tool_choice.function.name", {"tools": TOOLS}),
    (CHAT, "tool_choice", {"type": "x"}, "tool_choice.type", {"tools": TOOLS}),
    (CHAT, "tool_choice", {"type": "allowed_tools", "allowed_tools": {"mode": "x", "tools": []}}, "tool_choice",
     {"tools": TOOLS}),
    (CHAT, "functions", [{}], "functions[0].name"), (CHAT, "functions", 5),
    (CHAT, "functions", [{"name": "f"}], "functions", {"tools": TOOLS}),
    (CHAT, "function_call", {"name": "h"}, "function_call.name", {"functions": [{"name": "f"}]}),
    (CHAT, "parallel_tool_calls", "x"), (CHAT, "top_logprobs", 2), (CHAT, "top_logprobs", 21), (CHAT, "logprobs", 1),
    (CHAT, "reasoning_effort", "enormous"), (CHAT, "chat_template_kwargs", 5), (CHAT, "safe_prompt", "x"),
    (CHAT, "continue_final_message", True), (CHAT, "documents", [{"id": "a"}], "documents[0].text"),
    (CHAT, "best_of", 2),
    (CHAT, "verbosity", "low"), (CHAT, "prompt_mode", "reasoning"),
    (CHAT, "messages", [{"role": "user", "content": "a", "tool_calls": [{"id": "x"}]}], "messages[0].tool_calls"),
    (CHAT, "messages", [{"role": "user", "content": "a", "prefix": True}], "messages[0].prefix"),
    (CHAT, "messages", [{"role": "assistant", "content": "a", "prefix": True}, *USER], "messages[0].prefix"),
    (CHAT, "messages", [{"role": "tool", "content": "a"}], "messages[0].tool_call_id"),
    (CHAT, "messages", [*USER, {"role": "tool", "content": "a", "tool_call_id": "x"}], "messages[1].tool_call_id"),
    (CHAT, "messages", [*USER, {"role": "assistant"}], "messages[1].content"),
    (CHAT, "messages", [*USER, {"role": "assistant", "tool_calls": 5}], "messages[1].tool_calls"),
    (CHAT, "messages", called(id="x"), f"{CALL}.function"), (CHAT, "messages", called(id=5), f"{CALL}.id"),
    (CHAT, "messages", called(id="x", type="web"), f"{CALL}.type"),
    (CHAT, "messages", called(id="x", function={"arguments": "{}"}), f"{CALL}.function.name"),
    (CHAT, "messages", called(id="x", function={"name": "f", "arguments": 5}), f"{CALL}.function.arguments"),
    (CHAT, "messages", [{"role": "user", "content": "a", "name": "n" * 201}], "messages[0].name"),
    (CHAT, "messages", [{"role": "user", "content": [{"type": "input_audio"}]}], "messages[0].content[0].type"),
    (CHAT, "messages", image(None), URL), (CHAT, "messages", image("data:text/plain,x"), URL),
    (CHAT, "messages", image("data:image/png;base64,aGVsbG8="), URL), (CHAT, "messages", image("ftp://a/b"), URL),
    (CHAT, "messages", image("http://127.0.0.1/x.png"), URL, {}, 403),
    (CHAT, "messages", image(png(32769, 1)), URL, {}, 413), (CHAT, "messages", image(png(8, 8)), "messages[0].content"),
    (CHAT, "messages", [{"role": "system", "content": image(png(8, 8))[0]["content"]}], "messages[0].content[0]"),
    # completions
    (COMPLETIONS, "prompt", []), (COMPLETIONS, "prompt", ["a", ""], "prompt[1]"), (COMPLETIONS, "prompt", ["a"] * 129),
    (COMPLETIONS, "prompt", [1, -1], "prompt[0]"), (COMPLETIONS, "prompt", [1, "a"], "prompt[0]"),
    (COMPLETIONS, "prompt", [True], "prompt[0]"), (COMPLETIONS, "prompt", [2**31 - 1]),
    (COMPLETIONS, "logprobs", 21), (COMPLETIONS, "echo", 1), (COMPLETIONS, "echo", True, "echo", {"logprobs": 1}),
    (COMPLETIONS, "echo", True, "echo", {"suffix": "x"}), (COMPLETIONS, "best_of", 1, "best_of", {"n": 2}),
    (COMPLETIONS, "best_of", 3, "best_of", {"stream": True}), (COMPLETIONS, "n", 5, "n", {"prompt": ["a"] * 60}),
    (COMPLETIONS, "suffix", 5),
    (COMPLETIONS, "suffix", "end"), (COMPLETIONS, "tools", TOOLS),
    # responses
    (RESPONSES, "model", NOT_THERE), (RESPONSES, "input", NOT_THERE), (RESPONSES, "input", 5), (RESPONSES, "input", []),
    (RESPONSES, "input", [5], "input[0]"), (RESPONSES, "input", [{"role": "robot", "content": "a"}], "input[0].role"),
    (RESPONSES, "input", [{"role": "user"}], "input[0].content"),
    (RESPONSES, "input", [{"type": "item_reference", "id": "x"}], "input[0].type"),
    (RESPONSES, "input", [{"type": "function_call", "call_id": "x"}], "input[0].name"),
    (RESPONSES, "input", [{"type": "function_call_output", "call_id": "x"}], "input[0].output"),
    (RESPONSES, "input", [{"type": "reasoning", "summary": []}]), (RESPONSES, "max_output_tokens", 0),
    (RESPONSES, "temperature", 6), (RESPONSES, "top_p", 0), (RESPONSES, "previous_response_id", "resp_1"),
    (RESPONSES, "conversation", "conv_1"), (RESPONSES, "background", True), (RESPONSES, "prompt", {"id": "x"}),
    (RESPONSES, "include", ["file_search_call.results"], "include[0]"), (RESPONSES, "top_logprobs", 2),
    (RESPONSES, "tools", [{"type": "web_search"}], "tools[0].type"), (RESPONSES, "tools", [{"name": "f"}],
                                                                     "tools[0].type"),
    (RESPONSES, "tools", [{"type": "function"}], "tools[0].name"), (RESPONSES, "tool_choice", "required"),
    (RESPONSES, "text", {"format": {"type": "json_schema"}}, "text.format.schema"), (RESPONSES, "text", 5),
    (RESPONSES, "text", {"verbosity": "low"}, "text.verbosity"), (RESPONSES, "reasoning", 5),
    (RESPONSES, "reasoning", {"effort": "huge"}, "reasoning.effort"), (RESPONSES, "truncation", "x"),
    (RESPONSES, "stream", 1), (RESPONSES, "instructions", 5),
    # Anthropic's
    *((path, *rest) for path in (MESSAGES, COUNT) for rest in (
        ("model", NOT_THERE), ("model", "nothing", "model", {}, 404), ("model", "tiny"), ("messages", NOT_THERE),
        ("messages", []), ("messages", [{"role": "robot", "content": "a"}], "messages[0].role"),
        ("messages", [{"role": "user"}], "messages[0].content"),
        ("messages", [{"role": "user", "content": 5}], "messages[0].content"),
        ("messages", block(type="video"), "messages[0].content[0].type"),
        ("messages", block(type="tool_use", id="x", name="f"), "messages[0].content[0].type"),
        ("messages", block(type="text"), "messages[0].content[0].text"),
        ("messages", block(type="image"), "messages[0].content[0].source"),
        ("messages", block(type="image", source={"type": "base64", "data": "%"}), "messages[0].content[0].source.data"),
        ("messages", block(type="image", source={"type": "file"}), "messages[0].content[0].source.type"),
        ("messages", block(type="image", source={"type": "url", "url": "http://127.0.0.1/"}),
         "messages[0].content[0].source.url", {}, 403),
        ("messages", block(type="tool_result", tool_use_id="x"), "messages[0].tool_call_id"),
        ("messages", block(type="tool_result"), "messages[0].content[0].tool_use_id"),
        ("messages", block("assistant", type="tool_use", id="x", name="f", input=5), "messages[0].content[0].input"),
        ("messages", block(type="document", source={"type": "base64"}), "messages[0].content[0].source.type"),
        ("system", 5), ("system", [{"type": "image"}], "system[0].type"), ("tools", 5), ("tools", [{}],
                                                                                         "tools[0].name"),
        ("tools", [{"type": "bash_20250124", "name": "bash"}], "tools[0].type"),
        ("tools", [{"name": "f", "input_schema": 5}], "tools[0].input_schema"),
        ("tool_choice", {"type": "any"}), ("tool_choice", {"type": "x"}, "tool_choice.type"),
        ("tool_choice", {"type": "tool", "name": "h"}, "tool_choice.name"), ("tool_choice", "auto"),
        ("thinking", {"type": "x"}, "thinking.type"), ("thinking", {"type": "enabled"}, "thinking.budget_tokens"),
        ("output_config", {"effort": "huge"}, "output_config.effort"),
        ("output_format", {"type": "json_schema"}, "output_format.schema"), ("mcp_servers", [{"url": "x"}]),
    )),
    (MESSAGES, "max_tokens", NOT_THERE), (MESSAGES, "max_tokens", 0), (MESSAGES, "temperature", 6),
    (MESSAGES, "stop_sequences", "a"), (MESSAGES, "stop_sequences", [""], "stop_sequences[0]"),
    (MESSAGES, "top_k", -1), (MESSAGES, "stream", "x"),
]
TYPES = {400: "invalid_request_error", 403: "permission_error", 404: "not_found_error", 413: "request_too_large"}


def error_of(path: str, answer: httpx.Response) -> dict[str, Any]:
    """The error, in the shape of its path and no other."""
    if not path.startswith(MESSAGES):
        return told(answer)
    body = answer.json()
    assert set(body) == {"type", "error"}
    assert body["type"] == "error"
    assert body["error"]["type"] == TYPES.get(answer.status_code, body["error"]["type"])
    assert "Traceback" not in body["error"]["message"]
    return dict(body["error"])


def name_of(case: tuple[Any, ...]) -> str:
    """The same in every process: pytest-xdist compares them."""
    return f"{case[0]} {case[1]}=" + ("nothing" if case[2] is NOT_THERE else str(case[2])[:30])


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_field(http: httpx.Client, case: tuple[Any, ...]) -> None:
    path, field, value, *rest = case
    param = rest[0] if rest else field
    body = {**GOOD_HERE[path], **(rest[1] if len(rest) > 1 else {}), field: value}
    if value is NOT_THERE:
        del body[field]
    answer = http.post(path, content=json.dumps(body), headers={"content-type": "application/json"})
    assert answer.status_code == (rest[2] if len(rest) > 2 else 400), answer.text
    error = error_of(path, answer)
    assert error["param"] == param, error
    assert param.split("[")[0].split(".")[0] in error["message"] or "model" in error["message"], error


@pytest.mark.parametrize("path", [MESSAGES, COUNT])
@pytest.mark.parametrize(("raw", "status"), [
    (b"", 400), (b"{", 400), (b"[]", 400), (b'{"messages": NaN}', 400), (b'{"model": "' + b"x" * 300_000 + b'"}', 413)])
def test_bodies_of_anthropic_s_shape(http: httpx.Client, path: str, raw: bytes, status: int) -> None:
    answer = http.post(path, content=raw, headers={"content-type": "application/json"})
    assert answer.status_code == status
    error_of(path, answer)


NAMES = sorted(MessagesRequest.model_fields)


@settings(max_examples=80, deadline=None, derandomize=True, database=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(path=st.sampled_from([MESSAGES, COUNT]),
       changes=st.dictionaries(st.sampled_from(NAMES), JUNK, min_size=1, max_size=3))
def test_junk_is_no_fault_of_the_server(http: httpx.Client, path: str, changes: dict[str, Any]) -> None:
    answer = http.post(path, content=json.dumps({**GOOD_HERE[path], **changes}).encode(),
                       headers={"content-type": "application/json"})
    assert answer.status_code < 500, answer.text
    if answer.status_code >= 400:
        error_of(path, answer)
