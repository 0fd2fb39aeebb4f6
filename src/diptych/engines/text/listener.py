"""The parts of llama.cpp that are reached only through the HTTP listener which its package opens: tokens of a text, and
a conversation as the model's template writes it. The listener is on the loopback address, with a key of ours alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from http.client import HTTPConnection, HTTPException
from typing import Any
from urllib.parse import urlsplit

import httpx

from diptych.core.errors import InvalidRequest, Unavailable

SECONDS = 60.0


class Listener:
    """Safe from any thread.

    Args:
        url: `Server.listening_address`.
        key: the API key that the server was given.
    """

    def __init__(self, url: str, key: str) -> None:
        self._place = urlsplit(url).netloc
        self._headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        self._http = httpx.Client(
            base_url=url, headers=self._headers, trust_env=False, timeout=SECONDS,
            # The listener closes connections that it has promised to keep; on the loopback a new one costs little.
            limits=httpx.Limits(max_keepalive_connections=0))

    def tokens(self, text: str, *, special: bool = True, begin: bool = False) -> list[int]:
        """Token ids of `text`.

        Args:
            special: names of control tokens in the text become those tokens.
            begin: add the token that begins a text, where the model has one.
        """
        body = {"content": text, "parse_special": special, "add_special": begin}
        return list(self._post("/tokenize", body)["tokens"])

    def text(self, tokens: list[int]) -> str:
        """The text of token ids."""
        return str(self._post("/detokenize", {"tokens": tokens})["content"])

    def prompt(self, body: dict[str, Any]) -> str:
        """A conversation (OpenAI's fields) as the model's template writes it.

        Raises:
            InvalidRequest: the template refuses it; `code` is "template_refused".
        """
        return str(self._post("/apply-template", body)["prompt"])

    def properties(self) -> dict[str, Any]:
        """What llama.cpp knows of the model: its template and what that can do."""
        return dict(self._ask("GET", "/props", None))

    def complete(self, body: dict[str, Any], take: Callable[[dict[str, Any]], bool]) -> None:
        """Like `Server.handle_completions`, which does not take token ids or pictures once a projector is loaded.

        Args:
            take: gets every chunk in the form that `handle_completions` has; True ends the answer.
        """
        given = {**body, "n_predict": body.get("max_tokens", -1)}
        try:
            with self._http.stream("POST", "/completion", json=given, timeout=None) as response:
                if response.status_code != 200:
                    take({"error": json.loads(response.read())["error"]})
                    return
                for line in response.iter_lines():
                    kind, _, data = line.partition(": ")
                    if data and take(_chunk(json.loads(data)) if kind == "data" else {"error": json.loads(data)}):
                        return
        except (httpx.HTTPError, ValueError, KeyError) as error:
            raise Unavailable(f"llama.cpp did not answer: {type(error).__name__}", code="engine_failed") from error

    def close(self) -> None:
        self._http.close()

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        return self._ask("POST", path, body)

    def _ask(self, method: str, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        # Each answer asks twice before its first token: the library's own client takes a third of httpx's time.
        connection = HTTPConnection(self._place, timeout=SECONDS)
        try:
            connection.request(method, path, None if body is None else json.dumps(body), self._headers)
            response = connection.getresponse()
            answer = json.loads(response.read())
        except (HTTPException, OSError, ValueError) as error:
            raise Unavailable(f"llama.cpp did not answer: {type(error).__name__}", code="engine_failed") from error
        finally:
            connection.close()
        if response.status == 200 and isinstance(answer, dict):
            return answer
        raise _refusal(answer)


def _chunk(data: dict[str, Any]) -> dict[str, Any]:
    """A chunk of llama.cpp's own stream in the form of OpenAI's completions."""
    if "error" in data:
        return data
    ended = bool(data.get("stop"))
    chunk: dict[str, Any] = {"timings": data.get("timings") or {}, "choices": [{
        "text": data.get("content") or "", "logprobs": {"content": data.get("completion_probabilities") or []},
        "finish_reason": ("length" if data.get("stop_type") == "limit" else "stop") if ended else None}]}
    if ended:
        # The last chunk repeats the probabilities of the whole answer.
        chunk["choices"][0]["logprobs"] = None
        chunk["usage"] = {
            "prompt_tokens": data.get("tokens_evaluated", 0), "completion_tokens": data.get("tokens_predicted", 0)}
    return chunk


def _refusal(answer: Any) -> Exception:
    error = answer.get("error", {}) if isinstance(answer, dict) else {}
    text = str(error.get("message", "no message"))
    _, found, reason = text.partition("Jinja Exception:")
    lines = [line.strip() for line in (reason if found else text).splitlines() if line.strip()]
    told = (lines[0] if lines else "no message")[:300]
    return InvalidRequest(f"the model's chat template refuses these messages: {told}", param="messages",
                          code="template_refused")
