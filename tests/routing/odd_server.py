"""A process that speaks OpenAI's API and misbehaves on demand: what it does depends on the model that is asked for.

Run as a script it prints its port. `OddServer` starts one.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from typing import Any

import httpx

STATUSES = {"full": (429, "rate_limit"), "busy": (503, "overloaded"), "down": (500, "server_error"),
            "filter": (400, "content_policy_violation"), "short": (400, "context_length_exceeded"),
            "wrong": (400, "invalid_value"), "locked": (401, "invalid_api_key"), "ghost": (404, "model_not_found")}


class State:
    """`ways`: what a model does, where it was changed; `seen`: requests, as (model, authorization)."""

    def __init__(self) -> None:
        self.ways: dict[str, str] = {}
        self.seen: list[tuple[str, str | None]] = []
        self.open = 0


async def handle(state: State, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        first, *lines = head.split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        body = json.loads(await reader.readexactly(int(headers.get("content-length", 0))) or b"{}")
        path = first.split(" ")[1]
        if path == "/seen":
            await answer(writer, 200, {"seen": state.seen, "open": state.open})
        elif path == "/ways":
            state.ways.update(body)
            await answer(writer, 200, {})
        else:
            state.seen.append((body["model"], headers.get("authorization")))
            state.open += 1
            try:
                await act(writer, reader, state.ways.get(body["model"], body["model"]), headers, path)
            finally:
                state.open -= 1
    except (ConnectionError, asyncio.IncompleteReadError):
        pass
    finally:
        writer.close()


async def act(
    writer: asyncio.StreamWriter, reader: asyncio.StreamReader, way: str, headers: dict[str, str], path: str,
) -> None:
    if way in STATUSES:
        status, code = STATUSES[way]
        told = f"{way} says no to {headers.get('authorization')}"
        await answer(writer, status, {"error": {"message": told, "code": code}})
        return
    if way == "hang":
        await reader.read()  # until the other side goes
        return
    if path.endswith("/embeddings"):
        await answer(writer, 200, {"data": [{"index": 0, "embedding": [1.0, 0.0]}], "usage": {"prompt_tokens": 1}})
        return
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n")
    if way == "drip":
        while True:
            writer.write(b": wait\n\n")
            await writer.drain()
            await asyncio.sleep(0.05)
    if way == "late":
        await asyncio.sleep(2.0)
    for index in range(2000 if way == "long" else 3):
        await piece(writer, {"content": f"{way}{index} "})
        await asyncio.sleep(0.02 if way == "long" else 0.0)
    if way == "cut":
        writer.transport.abort()
        return
    await piece(writer, {}, "stop")
    writer.write(b"data: [DONE]\n\n")
    await writer.drain()


async def piece(writer: asyncio.StreamWriter, delta: dict[str, Any], reason: str | None = None) -> None:
    chunk = {"choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}
    writer.write(f"data: {json.dumps(chunk)}\n\n".encode())
    await writer.drain()


async def answer(writer: asyncio.StreamWriter, status: int, value: dict[str, Any]) -> None:
    body = json.dumps(value).encode()
    writer.write(f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
                 "connection: close\r\n\r\n".encode() + body)
    await writer.drain()


async def serve() -> None:
    state = State()
    server = await asyncio.start_server(lambda reader, writer: handle(state, reader, writer), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


class OddServer:
    """The script in a process of its own."""

    def __init__(self) -> None:
        self.process = subprocess.Popen([sys.executable, __file__], stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.url = f"http://127.0.0.1:{int(self.process.stdout.readline())}"

    def behave(self, **ways: str) -> None:
        httpx.post(f"{self.url}/ways", json=ways)

    @property
    def seen(self) -> list[tuple[str, str | None]]:
        return [(model, key) for model, key in httpx.get(f"{self.url}/seen").json()["seen"]]

    @property
    def open(self) -> int:
        """Requests that it works on now."""
        return int(httpx.get(f"{self.url}/seen").json()["open"])

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


if __name__ == "__main__":
    asyncio.run(serve())
