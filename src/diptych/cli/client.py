"""The server's HTTP API as the commands use it. Every fault becomes one `CliError`."""

from __future__ import annotations

import json
import os
import ssl
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote, urljoin

import httpx

from diptych.cli.errors import CliError, ServerError

TIMEOUT = httpx.Timeout(30.0, connect=5.0)
QUICK = httpx.Timeout(3.0)
LONG = httpx.Timeout(None, connect=5.0)
"""For answers that wait for a model to load or a picture to be made: the server has its own limits."""


class Api:
    """A client of one server. Use as a context manager, or `close` it.

    Args:
        key: an API key; `$DIPTYCH_API_KEY` when left out.
    """

    def __init__(self, url: str, key: str | None = None) -> None:
        self.url = url.rstrip("/")
        if not self.url.startswith(("http://", "https://")):
            raise CliError(f"the server's address {url!r} is no http:// or https:// address", status=2)
        # No proxy for the local machine, whatever the environment says.
        self._http = httpx.Client(
            base_url=self.url, timeout=TIMEOUT, trust_env=not _is_local(self.url),
            verify=self.url.startswith("https://") or _no_authorities(),
            headers=_key_header(key or os.environ.get("DIPTYCH_API_KEY")))

    def __enter__(self) -> Api:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def request(self, method: str, path: str, *, body: Any = None, timeout: httpx.Timeout = TIMEOUT,
                params: dict[str, Any] | None = None) -> Any:
        """The answer's JSON. Raises `ServerError` with the server's own message for 4xx and 5xx."""
        with self._faults():
            answer = self._http.request(
                method, path, timeout=timeout, params=params, **_json_body(body))
            if answer.is_error:
                raise _server_error(answer)
            return answer.json() if answer.content else None

    def upload(self, path: str, name: str, data: bytes) -> Any:
        """Send one file as multipart/form-data; the answer's JSON. Raises `ServerError`."""
        with self._faults():
            answer = self._http.post(path, files={"file": (name, data, "application/octet-stream")}, timeout=LONG)
            if answer.is_error:
                raise _server_error(answer)
            return answer.json()

    def upload_picture(self, data: bytes, kind: str) -> str:
        """Send a picture to work on; its id. Raises `ServerError`."""
        with self._faults():
            answer = self._http.post(
                "/api/inputs", content=data, headers={"Content-Type": f"image/{kind}"}, timeout=LONG)
            if answer.is_error:
                raise _server_error(answer)
            return str(answer.json()["id"])

    def bytes(self, url: str) -> bytes:
        """The content at `url`, which may be relative to the server's address."""
        with self._faults():
            answer = self._http.get(urljoin(self.url + "/", url), timeout=LONG)
            if answer.is_error:
                raise _server_error(answer)
            return answer.content

    def sse(self, method: str, path: str, *, body: Any = None) -> Generator[dict[str, Any]]:
        """The JSON of each server-sent event, until the stream ends or says `[DONE]`. Closing the iterator closes the
        connection, which cancels a chat answer."""
        with self._faults(), self._http.stream(
                method, path, timeout=LONG, **_json_body(body)) as answer:
            if answer.is_error:
                answer.read()
                raise _server_error(answer)
            for data in _sse_data(answer.iter_lines()):
                if data == "[DONE]":
                    return
                yield json.loads(data)

    @contextmanager
    def _faults(self) -> Iterator[None]:
        try:
            yield
        except httpx.ConnectError as error:
            raise CliError(f"no server answers at {self.url}; start one with: diptych serve") from error
        except httpx.TimeoutException as error:
            raise CliError(f"the server at {self.url} did not answer in time") from error
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise CliError(f"the connection to {self.url} broke: {error or type(error).__name__}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise CliError(f"what answers at {self.url} is no Diptych server (unexpected answer)") from error

    # Jobs

    def submit(self, spec: dict[str, Any], path: str = "/api/jobs") -> dict[str, Any]:
        job: dict[str, Any] = self.request("POST", path, body=spec)
        return job

    def job(self, id: str) -> dict[str, Any]:
        job: dict[str, Any] = self.request("GET", f"/api/jobs/{quote(id, safe='')}")
        return job

    def jobs(self, state: str | None, limit: int) -> list[dict[str, Any]]:
        params = {"limit": limit, **({"state": state} if state else {})}
        found = self.request("GET", "/api/jobs", params=params)
        with self._faults():
            jobs: list[dict[str, Any]] = found["jobs"]
            return jobs

    def cancel(self, id: str) -> dict[str, Any]:
        job: dict[str, Any] = self.request("POST", f"/api/jobs/{quote(id, safe='')}/cancel")
        return job

    def events(self, id: str) -> Iterator[dict[str, Any]]:
        return self.sse("GET", f"/api/jobs/{quote(id, safe='')}/events")

    # Models, system

    def models(self) -> tuple[list[dict[str, Any]], list[str]]:
        """The models, and a line for each that is there but cannot be used."""
        found = self.request("GET", "/api/models")
        with self._faults():
            return found["models"], found["problems"]

    def parts(self) -> list[dict[str, Any]]:
        """Files that are used together with image models."""
        found = self.request("GET", "/api/parts")
        with self._faults():
            parts: list[dict[str, Any]] = found["parts"]
            return parts

    def load(self, model: str, pinned: bool | None = None) -> Any:
        return self.request("POST", "/api/models/load", body={"model": model, "pinned": pinned}, timeout=LONG)

    def unload(self, model: str) -> Any:
        return self.request("POST", "/api/models/unload", body={"model": model}, timeout=LONG)

    def pull(self, model: str, tell: Callable[[str], None]) -> None:
        """Have the server get a model; `tell` takes a line for each thing that happens."""
        for event in self.sse("POST", "/api/models/pull", body={"model": model, "stream": True}):
            if event["type"] == "error":
                raise ServerError(str(event["error"]["message"]))
            if event["type"] == "progress":
                tell(str(event["message"]))

    def system(self, timeout: httpx.Timeout = QUICK) -> dict[str, Any]:
        found: dict[str, Any] = self.request("GET", "/api/system", timeout=timeout)
        return found


def _json_body(body: Any) -> dict[str, Any]:
    """Arguments for httpx. NaN goes out as it is: the server's refusal names the field."""
    return {} if body is None else {"content": json.dumps(body), "headers": {"Content-Type": "application/json"}}


def _key_header(key: str | None) -> dict[str, str]:
    if not key:
        return {}
    if not key.isascii() or not key.isprintable() or key != key.strip():
        raise CliError("DIPTYCH_API_KEY is no API key: it has other characters than printable ASCII, or spaces around")
    return {"Authorization": f"Bearer {key}"}


def _no_authorities() -> ssl.SSLContext:
    """Trusts nobody. Plain HTTP needs no more, and reading the usual certificates takes longer than most questions."""
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def _is_local(url: str) -> bool:
    return httpx.URL(url).host in ("127.0.0.1", "localhost", "::1")


def _server_error(answer: httpx.Response) -> ServerError:
    try:
        error = answer.json()["error"]
        message, param, code = str(error["message"]), error.get("param"), error.get("code")
    except (ValueError, KeyError, TypeError, AttributeError):
        return ServerError(f"the server answered {answer.status_code} {answer.reason_phrase}",
                           http_status=answer.status_code)
    if param and str(param) not in message:
        message = f"{param}: {message}"
    return ServerError(" ".join(message.split()), http_status=answer.status_code, code=code)


def _sse_data(lines: Iterator[str]) -> Iterator[str]:
    """The `data` of each event of a stream (WHATWG server-sent events)."""
    data: list[str] = []
    for line in lines:
        if not line and data:
            yield "\n".join(data)
            data = []
        elif line.startswith("data:"):
            data.append(line[5:].removeprefix(" "))
    if data:
        yield "\n".join(data)
