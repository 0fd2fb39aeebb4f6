"""What `diptych chat` asks for beside the question: a form, tools, pictures, documents."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diptych.cli.errors import USAGE, CliError, ServerError
from diptych.cli.inputs import document, picture_url, read_json
from diptych.cli.output import print_json, say

if TYPE_CHECKING:
    from diptych.cli.client import Api
    from diptych.cli.conversation import Conversation

_NAME = re.compile(r"[A-Za-z0-9_.*-]{1,200}")
AGENT_SAMPLING = ("temperature", "seed", "max_tokens")


@dataclass
class Question:
    """`fields` of the request, `pictures` (URLs) of the first question, and `names` of tools that the server runs."""

    fields: dict[str, Any] = field(default_factory=dict)
    pictures: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)

    @classmethod
    def of(
        cls, schema: str | None, tools: list[str] | None, images: list[str] | None, docs: list[str] | None,
        choice: str | None = None,
    ) -> Question:
        """Raises CliError for a file that cannot be read, and for what does not go together."""
        made = cls(pictures=[picture_url(image, "--image") for image in images or ()])
        if schema is not None:
            made.fields["response_format"] = {"type": "json_schema", "json_schema": {
                "name": "answer", "strict": True, "schema": read_json(schema, "--json-schema")}}
        if docs:
            made.fields["documents"] = [document(doc, "--doc") for doc in docs]
        definitions: list[Any] = []
        for tool in tools or ():
            if _is_name(tool):
                made.names.append(tool)
            else:
                definitions += _definitions(tool)
        if definitions and made.names:
            raise CliError("--tool: give names of the server's tools or definitions, not both", status=USAGE)
        if made.names and (made.pictures or docs):
            raise CliError("--image and --doc cannot be used with the server's own tools", status=USAGE)
        if definitions:
            made.fields["tools"] = definitions
        if choice is not None:
            if not tools:
                raise CliError("--tool-choice needs a --tool", status=USAGE)
            made.fields["tool_choice"] = choice if choice in ("auto", "required", "none") else {
                "type": "function", "function": {"name": choice}}
        return made


def _is_name(tool: str) -> bool:
    return _NAME.fullmatch(tool) is not None and not Path(tool).exists() and not tool.endswith(".json")


def _definitions(tool: str) -> list[dict[str, Any]]:
    """One or several, in OpenAI's shape or as `{name, description, parameters}`."""
    value = _fetched(tool) if tool.startswith(("http://", "https://")) else read_json(tool, "--tool")
    found = []
    for one in value if isinstance(value, list) else [value]:
        if not isinstance(one, dict):
            raise CliError(f"--tool: {tool[:80]} is no definition of a tool: an object with a name", status=USAGE)
        function = one.get("function", one)
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise CliError(f"--tool: {tool[:80]} has no name", status=USAGE)
        found.append({"type": "function", "function": {
            name: function[name] for name in ("name", "description", "parameters", "strict") if name in function}})
    return found


def _fetched(url: str) -> Any:
    import httpx

    try:
        answer = httpx.get(url, timeout=20, follow_redirects=True)
        answer.raise_for_status()
        return answer.json()
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        raise CliError(f"--tool: no definition can be read from {url}: {error or type(error).__name__}") from error


def whole(conversation: Conversation, question: str) -> None:
    """The server's answer as it is, on standard output."""
    from diptych.cli.client import LONG

    conversation.add(question)
    print_json(conversation.api.request("POST", "/v1/chat/completions", body=conversation.body(), timeout=LONG))


def run_tools(
    api: Api, asked: Question, model: str, system: str | None, question: str, sampling: dict[str, Any], as_json: bool,
) -> None:
    """Have the server's agent work on it. What it calls is told on standard error, its answer on standard output."""
    from diptych.cli.client import LONG

    body: dict[str, Any] = {"model": model, "input": question, "tools": asked.names, **sampling, **asked.fields}
    if system:
        body["instructions"] = system
    if as_json:
        print_json(api.request("POST", "/api/agents/run", body=body, timeout=LONG))
        return
    for event in api.sse("POST", "/api/agents/run", body={**body, "stream": True}):
        if event["type"] == "error":
            raise ServerError(str(event["error"]["message"]), code=event["error"].get("code"))
        if event["type"] == "tool_call":
            say(f"→ {event['name']}({event['arguments']})")
        elif event["type"] == "tool_result":
            say(f"{'✗' if event['error'] else '←'} {event['content'][:500]}")
        elif event["type"] == "finished":
            print(event["output"], flush=True)
            if event["reason"] != "stop":
                raise CliError(f"the work is not done: it ended with {event['reason']}")


def told_calls(calls: list[dict[str, str]]) -> list[str]:
    """A line of JSON for each call: `{"name", "arguments"}`."""
    lines = []
    for call in calls:
        try:
            arguments: Any = json.loads(call["arguments"] or "{}")
        except ValueError:
            arguments = call["arguments"]
        lines.append(json.dumps({"name": call["name"], "arguments": arguments}, ensure_ascii=False))
    return lines


def told_citations(citations: list[dict[str, Any]]) -> list[str]:
    """A line for each: what the answer says, and where it has it from."""
    lines = []
    for number, one in enumerate(citations, 1):
        sources = [_source(source) for source in one.get("sources") or ()]
        lines.append(f"[{number}] {' '.join(str(one.get('text', '')).split())}"
                     + (f" — {'; '.join(sources)}" if sources else ""))
    return lines


def _source(source: Any) -> str:
    if not isinstance(source, dict):
        return str(source)
    title = source.get("title") or source.get("id") or "?"
    quote = source.get("quote") or source.get("text")
    return f"{title}: “{' '.join(str(quote).split())[:200]}”" if quote else str(title)
