"""URLs from requests: nothing is fetched that was not allowed, from real servers on real sockets."""

from __future__ import annotations

import http.server
import ipaddress
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from diptych.core.errors import DiptychError, Forbidden, InvalidRequest, TooLarge, Unavailable
from diptych.library import fetch
from diptych.library.addresses import AllowList, is_public
from diptych.library.fetch import Fetched, fetch_allowed
from diptych.settings import Settings


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        server: Any = self.server
        server.asked.append(self.path)
        kind, _, rest = self.path[1:].partition("/")
        if kind == "to":
            self.send_response(302)
            self.send_header("Location", rest)
            self.end_headers()
            return
        if kind == "hang":
            time.sleep(5)
            return
        self.send_response(404 if kind == "gone" else 200)
        self.send_header("Content-Type", "image/png; charset=x")
        if kind in ("large", "short"):
            self.send_header("Content-Length", "1000000")
        self.end_headers()
        try:
            if kind == "drip":
                for _ in range(100):
                    self.wfile.write(b"x")
                    time.sleep(0.05)
            body = b"y" * (300_000 if kind == "many" else 5)
            self.wfile.write(self.headers["Host"].encode() if kind == "host" else body)
        except OSError:
            pass

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def served() -> Iterator[Any]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.asked = []  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def settings(*hosts: str, **more: Any) -> Settings:
    return Settings(fetch_hosts=hosts, **{"max_fetch_bytes": 100_000, "fetch_seconds": 10.0, **more})


def get(server: Any, path: str, *hosts: str, name: str = "127.0.0.1", **more: Any) -> Fetched:
    return fetch_allowed(f"http://{name}:{server.server_port}/{path}", settings(*hosts, **more), param="image_url")


def test_nothing_is_fetched_unless_it_is_allowed(served: Any) -> None:
    for hosts in ((), ("example.org",), ("*.example.org",), ("10.0.0.0/8",)):
        with pytest.raises(Forbidden, match="fetch_hosts") as refused:
            get(served, "x", *hosts)
        assert refused.value.param == "image_url"
    # A name alone opens no private address.
    for hosts in (("*",), ("localhost", "127.0.0.1.example"), ("localhost", "10.0.0.0/8")):
        with pytest.raises(Forbidden):
            get(served, "x", *hosts, name="localhost")
    assert served.asked == []


def test_what_is_allowed(served: Any) -> None:
    found = get(served, "x", "127.0.0.0/8")
    assert (found.data, found.media_type) == (b"yyyyy", "image/png")
    assert get(served, "host", "localhost", "127.0.0.0/8", "::1", name="localhost").data == (
        f"localhost:{served.server_port}".encode())


@pytest.mark.parametrize("target", [
    "http://10.0.0.1/", "http://169.254.169.254/latest/meta-data/", "http://[::1]:{port}/x", "http://localhost:{port}/x",
    "http://127.0.0.2:{port}/x", "http://0.0.0.0:{port}/x", "http://[::ffff:127.0.0.1]:{port}/x",
    "http://[64:ff9b::7f00:1]/", "//127.0.0.2:{port}/x",
])
def test_redirects_are_checked_too(served: Any, target: str) -> None:
    with pytest.raises(Forbidden):
        get(served, "to/" + target.format(port=served.server_port), "127.0.0.1")
    assert len(served.asked) == 1


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/x", "gopher://127.0.0.1/x", "data:,x"])
def test_redirects_to_other_schemes(served: Any, target: str) -> None:
    with pytest.raises(InvalidRequest):
        get(served, f"to/{target}", "127.0.0.1")


def test_a_redirect_that_is_allowed_and_one_without_end(served: Any) -> None:
    assert get(served, "to//x", "127.0.0.1").url.endswith("/x")
    served.asked.clear()
    with pytest.raises(InvalidRequest, match="5 times"):
        get(served, "to/" * 20, "127.0.0.1")
    assert len(served.asked) <= 6


@pytest.mark.parametrize("url", [
    "", "x", "file:///etc/passwd", "http://", "http:///x", "http://user:pass@127.0.0.1/", "http://127.0.0.1:99999/",
    "http://127.0.0.1:0/", "http://a b/", "http://127.0.0.1/\r\nX: y", "http://127.0.0.1\\@evil.example/", "http://[::1",
    "http://ex\u00e4mple.org/", "HTTPS:127.0.0.1", "http://127.0.0.1/" + "x" * 9000, "http://no.such.host.invalid/",
])
def test_urls_that_are_none(url: str) -> None:
    with pytest.raises(InvalidRequest):
        fetch_allowed(url, settings("*", "127.0.0.0/8"), param="image_url")


def test_sizes_and_times(served: Any) -> None:
    for path in ("many", "large"):
        with pytest.raises(TooLarge):
            get(served, path, "127.0.0.1")
    with pytest.raises(InvalidRequest, match="404"):
        get(served, "gone", "127.0.0.1")
    for path in ("hang", "drip"):
        start = time.monotonic()
        with pytest.raises(Unavailable, match="in time"):
            get(served, path, "127.0.0.1", fetch_seconds=0.6)
        assert time.monotonic() - start < 3
    with pytest.raises(Unavailable):
        get(served, "short", "127.0.0.1", max_fetch_bytes=2_000_000)


def test_a_name_that_changes_its_address(served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was checked is what is connected to: the name is not looked up a second time."""
    looked: list[str] = []

    def once(host: str, port: int) -> list[Any]:
        looked.append(host)
        return [ipaddress.ip_address("127.0.0.1" if len(looked) == 1 else "10.0.0.1")]

    monkeypatch.setattr(fetch, "resolve", once)
    url = f"http://rebind.example:{served.server_port}/x"
    assert fetch_allowed(url, settings("rebind.example", "127.0.0.0/8"), param="u").data == b"yyyyy"
    assert looked == ["rebind.example"]
    both = [ipaddress.ip_address("8.8.8.8"), ipaddress.ip_address("10.0.0.1")]
    monkeypatch.setattr(fetch, "resolve", lambda *_: both)
    with pytest.raises(Forbidden):  # one private address among public ones
        fetch_allowed(url, settings("*"), param="u")


PRIVATE = ["127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.0.1", "169.254.169.254", "100.64.0.1", "0.0.0.0",
           "224.0.0.1", "255.255.255.255", "198.18.0.1", "192.0.2.1", "::", "::1", "fe80::1", "fc00::1", "ff02::1",
           "::ffff:10.0.0.1", "::ffff:7f00:1", "2002:7f00:1::", "64:ff9b::10.0.0.1", "::127.0.0.1", "2001:db8::1",
           "240.0.0.1"]


@pytest.mark.parametrize("address", PRIVATE)
def test_private_addresses(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))
    assert not AllowList.of(["*"]).permits(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8"])
def test_public_addresses(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


def test_allow_list() -> None:
    found = AllowList.of(["Example.org", "*.example.net", "10.0.0.0/8", "fd00::1"])
    named = [name for name in ("example.org", "EXAMPLE.ORG.", "a.example.org", "xexample.org", "a.example.net",
                              "example.net", "a.b.example.net", "10.1.1.1", "11.1.1.1", "[fd00::1]")
             if found.names_host(name)]
    assert named == ["example.org", "EXAMPLE.ORG.", "a.example.net", "a.b.example.net", "10.1.1.1", "[fd00::1]"]


def test_errors_have_their_shape() -> None:
    with pytest.raises(DiptychError) as refused:
        fetch_allowed("https://example.org/x.png", settings(), param="messages[0].content[1].image_url")
    assert refused.value.body()["error"]["code"] == "url_not_allowed"
