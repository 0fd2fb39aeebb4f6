"""A server without keys on the loopback: whose requests it answers; and addresses that it refuses to listen on."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from secured import Secured, create_key, diptych, until
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

JOBS = "/api/jobs"
SERVED = ["localhost", "LOCALHOST", "localhost.", "app.localhost", "127.0.0.1", "127.9.9.9", "[::1]", "studio.lan",
          "a.example.org"]
NOT_SERVED = ["", "evil.example", "localhost.evil.example", "127.0.0.1.nip.io", "127.0.0.1@evil.example",
              "notlocalhost",
              "[::1", "::1", "0.0.0.0", "10.0.0.1", "example.org", "xexample.org", "a.example.org.evil", "localhost:x",
              "localhost:99999", "localhost:80:80", "localhost, evil.example", "local host", "%6cocalhost", "[::1]x",
              "2130706433", "0x7f000001", "0177.0.0.1", "127.1", "lócalhost"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    served = Secured(tmp_path_factory.mktemp("open"), allowed_hosts=["studio.lan", "*.example.org"],
                     cors_origins=["https://app.example"])
    yield served
    assert served.stop() == 0
    assert "Traceback" not in served.log_file.read_text()


def raw(port: int, request: bytes) -> bytes:
    """The head of the answer to bytes on a socket."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(request)
        answer = b""
        while block := connection.recv(65536):
            answer += block
    return answer


def with_headers(port: int, *lines: bytes, method: bytes = b"GET", path: bytes = b"/api/jobs") -> int:
    answer = raw(port, b"\r\n".join((method + b" " + path + b" HTTP/1.1", *lines, b"connection: close", b"", b"")))
    assert answer.startswith(b"HTTP/1.1 "), answer[:200]
    return int(answer[9:12])


def test_no_key_is_needed_and_any_is_taken(server: Secured) -> None:
    with server.client() as http:
        assert http.get(JOBS).status_code == 200
        assert http.get(JOBS, headers={"authorization": "Bearer none"}).status_code == 200
        own = http.get("/api/keys/self").json()
    assert (own["caller"], own["key_required"], own["id"]) == ("local", False, None)


@pytest.mark.parametrize("host", SERVED)
def test_hosts_that_are_served(server: Secured, host: str) -> None:
    for place in (host, f"{host}:{server.port}", f"{host}:8080"):
        assert with_headers(server.port, b"host: " + place.encode()) == 200


@pytest.mark.parametrize("host", NOT_SERVED)
def test_hosts_that_are_not(server: Secured, host: str) -> None:
    assert with_headers(server.port, b"host: " + host.encode()) in (400, 403)


def test_two_hosts_or_none(server: Secured) -> None:
    assert with_headers(server.port, b"host: localhost", b"host: localhost") in (400, 403)
    assert with_headers(server.port, b"host: localhost", b"host: evil.example") in (400, 403)
    assert with_headers(server.port) in (400, 403)
    assert raw(server.port, b"GET /api/jobs HTTP/1.0\r\n\r\n")[9:12] in (b"400", b"403")


@settings(max_examples=120, deadline=None)
@given(host=st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=20) | st.sampled_from(NOT_SERVED),
       origin=st.none() | st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=20)
       | st.sampled_from(["null", "http://evil.example", "http://localhost", "file://", "https://app.example.evil"]))
def test_random_hosts_and_origins_change_nothing(server: Secured, host: str, origin: str | None) -> None:
    """Without a right Host, or with a foreign Origin, no request that sends something gets to a route (which would
    answer 404 or 415 here)."""
    lines = [b"host: " + host.encode()] + ([b"origin: " + origin.encode()] if origin is not None else [])
    name = host.rpartition(":")[0] or host
    good = name.lower().rstrip(".") in ("localhost", "studio.lan") or name.endswith((".localhost", ".example.org")) \
        or name.startswith("127.") or name == "[::1]"
    if not good:
        assert with_headers(server.port, *lines, method=b"POST") in (400, 403)
    if origin is not None and origin.lower() not in (f"http://{host}".lower(), f"https://{host}".lower()):
        allowed = origin.rstrip("/").lower() == "https://app.example"
        found = with_headers(server.port, b"host: localhost", *lines[1:], method=b"POST")
        assert found == (415 if allowed or origin.lower() in ("http://localhost", "https://localhost") else 403)


@pytest.mark.parametrize(("origin", "status"), [
    ("http://evil.example", 403), ("null", 403), ("http://localhost:3000", 403), ("https://app.example", 404),
    ("http://127.0.0.1:{port}", 404), ("HTTP://127.0.0.1:{port}", 404), ("http://127.0.0.1", 403), ("", 403),
    ("chrome-extension://abc", 403), ("ws://127.0.0.1:{port}", 403), ("http://127.0.0.1:{port}/x", 403),
])
def test_what_pages_of_other_origins_send(server: Secured, origin: str, status: int) -> None:
    """A POST without a body is what a page may send without asking."""
    with server.client(origin=origin.format(port=server.port)) as http:
        answer = http.post(f"{JOBS}/{'0' * 32}/cancel")
        assert answer.status_code == status
        assert http.delete(f"{JOBS}/{'0' * 32}").status_code == status


@pytest.mark.parametrize(("origin", "good"), [
    ("http://evil.example", False), ("null", False), ("https://app.example", True), ("http://localhost:{port}", True),
    (None, True),
])
def test_websockets(server: Secured, origin: str | None, good: bool) -> None:
    place = f"ws://localhost:{server.port}{JOBS}/{'0' * 32}/events/ws"
    headers = {"origin": origin.format(port=server.port)} if origin else {}
    if good:
        with connect(place, additional_headers=headers) as socket:
            assert "error" in str(socket.recv(10))
        return
    with pytest.raises(InvalidStatus):
        connect(place, additional_headers=headers).close()


def test_cors_for_the_named_origin_only(server: Secured) -> None:
    asked = {"access-control-request-method": "POST", "access-control-request-headers": "content-type,authorization"}
    with server.client() as http:
        good = http.options(JOBS, headers={"origin": "https://app.example", **asked})
        assert good.headers["access-control-allow-origin"] == "https://app.example"
        assert http.get(JOBS, headers={"origin": "https://app.example"}).headers["access-control-allow-origin"]
        for origin in ("https://evil.example", "https://app.example.evil", "http://app.example", "null"):
            assert "access-control-allow-origin" not in http.options(JOBS, headers={"origin": origin, **asked}).headers
            assert "access-control-allow-origin" not in http.get(JOBS, headers={"origin": origin}).headers


def test_headers_of_every_answer(server: Secured) -> None:
    with server.client() as http:
        for path, headers in [("/health", {}), (JOBS, {}), ("/nothing", {}), (JOBS, {"host": "evil.example"}),
                              ("/v1/models", {}), ("/docs", {})]:
            found = http.get(path, headers=headers).headers
            assert found["x-content-type-options"] == "nosniff", path
            assert found["referrer-policy"] == "no-referrer"
            assert found["x-frame-options"] == "DENY"
            assert "frame-ancestors 'none'" in found["content-security-policy"]
            assert found["cache-control"]


def test_the_page_of_the_api_needs_nothing_from_elsewhere(server: Secured) -> None:
    with server.client() as http:
        answer = http.get("/docs")
        paths = http.get("/openapi.json").json()["paths"]
    assert answer.headers["content-security-policy"].startswith("default-src 'none'; style-src 'sha256-")
    assert answer.headers["content-type"].startswith("text/html")
    for path in paths:
        assert f"{path}</code>" in answer.text
    for word in ("<script", "src=", "@import", "<link", "<img"):
        assert word not in answer.text
    assert "models:write" in answer.text


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "studio.lan", "127.1"])
def test_no_listening_beyond_this_machine_without_a_key(tmp_path: Path, host: str) -> None:
    done = diptych(tmp_path, "serve", "--port", 0, "--host", host)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "diptych key create" in done.stderr


def test_settings_that_would_let_everybody_in(tmp_path: Path) -> None:
    for variables in ({"DIPTYCH_CORS_ORIGINS": '["*"]'}, {"DIPTYCH_HOST": "0.0.0.0", "DIPTYCH_REQUIRE_KEY": "false"}):
        done = diptych(tmp_path, "serve", "--port", 0, **variables)
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)


def test_listening_everywhere_with_a_key(tmp_path: Path) -> None:
    text = create_key(tmp_path, "ann")
    served = Secured(tmp_path, host="0.0.0.0")
    try:
        with served.client(text) as http:
            assert http.get(JOBS).status_code == 200
            assert http.get(JOBS, headers={"host": "192.168.7.7"}).status_code == 200
            assert http.get(JOBS, headers={"host": "evil.example"}).status_code == 403
        assert httpx.get(served.url + JOBS).status_code == 401
        assert diptych(tmp_path, "key", "revoke", "ann").returncode == 0
        until(lambda: httpx.get(served.url + JOBS, headers={"x-api-key": text}).status_code == 401)
        assert httpx.get(served.url + JOBS).status_code == 401  # not open again because the last one has gone
    finally:
        assert served.stop() == 0
    assert diptych(tmp_path, "serve", "--port", 0, "--host", "0.0.0.0").returncode == 1
