"""A real `diptych serve` whose settings have tools of every kind, and the servers behind them."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tiny import mistral

from diptych.cli.address import read_address

HERE = Path(__file__).parent


class Service(BaseHTTPRequestHandler):
    """A web service that says what it was asked."""

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0)).decode()
        status = 418 if "teapot" in self.path else 200
        told = json.dumps({"method": self.command, "path": self.path, "body": body,
                           "key": self.headers.get("x-secret")}).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(told)))
        self.end_headers()
        self.wfile.write(told)

    do_GET = do_POST = _answer

    def log_message(self, *values: Any) -> None:
        pass


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


class Studio:
    """The server of `home/data`; `service` is the address of a web service, `mcp` the process of an MCP server."""

    def __init__(self, home: Path, starter_text: Path) -> None:
        self.home, self.data_dir, self.log_file = home, home / "data", home / "serve.log"
        models = self.data_dir / "models"
        models.mkdir(parents=True)
        (models / "starter-text").symlink_to(starter_text.parent)
        for version in ("v7", "v11"):
            (models / f"mistral-{version}").symlink_to(mistral(version).parent)
        self._web = ThreadingHTTPServer(("127.0.0.1", 0), Service)
        threading.Thread(target=self._web.serve_forever, daemon=True).start()
        self.service = f"http://127.0.0.1:{self._web.server_port}"
        port = free_port()
        self.mcp = subprocess.Popen([sys.executable, str(HERE / "mcp_server.py"), str(port)],
                                    stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        _reachable(port)
        self.settings: dict[str, Any] = {
            "warm_spare": False, "threads": 1, "text_context": 1024, "text_slots": 2, "fetch_hosts": ["127.0.0.1"],
            "tools": [f"operator_tools:{name}" for name in ("weather", "later", "broken", "long")],
            "http_tools": [{"name": "echo", "description": "says it again", "url": f"{self.service}/echo/{{word}}",
                            "method": "GET", "headers": {"X-Secret": "s3cr3t-value"}, "parameters": {
                                "type": "object", "properties": {
                                    "word": {"type": "string", "maxLength": 20}, "times": {"type": "integer"}},
                                "required": ["word"]}}],
            "mcp_servers": {
                "numbers": {"command": sys.executable, "args": [str(HERE / "mcp_server.py")]},
                "far": {"url": f"http://127.0.0.1:{port}/mcp"},
                "gone": {"command": str(home / "no-such-program"), "timeout_seconds": 5}}}
        self.process = self._start()
        self.url = self._wait()

    @property
    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    def restart(self) -> None:
        """End the server and start it again on the same data."""
        assert self._end() == 0
        self.process = self._start()
        self.url = self._wait()

    def stop(self) -> int:
        try:
            return self._end()
        finally:
            self.mcp.kill()
            self.mcp.wait()
            self._web.shutdown()
            self._web.server_close()

    def _start(self) -> subprocess.Popen[bytes]:
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("DIPTYCH_", "XDG_"))}
        given = {f"DIPTYCH_{name.upper()}": json.dumps(value) for name, value in self.settings.items()}
        with self.log_file.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "diptych", "serve", "--port", "0", "--data-dir", str(self.data_dir)],
                env={**clean, **given, "HOME": str(self.home), "PYTHONPATH": str(HERE)}, stdin=subprocess.DEVNULL,
                stdout=log, stderr=log)

    def _wait(self) -> str:
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline and self.process.poll() is None:
            address = read_address(self.data_dir)
            if address is not None and address.pid == self.process.pid:
                return address.url
            time.sleep(0.05)
        raise AssertionError(self.log)

    def _end(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        try:
            return self.process.wait(60)
        finally:
            self.process.kill()
            self.process.wait()


def _reachable(port: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.1)
    raise AssertionError("the MCP server did not start")
