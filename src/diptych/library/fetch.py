"""Fetch what a URL in a request names: only from hosts that the operator allowed, never from inside the network.

The name is looked up once, every address is checked, and the connection is made to the checked address itself: a name
that changes its address between check and connection (DNS rebinding) gains nothing. Proxies are not used: they would
look the name up themselves.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from urllib.parse import SplitResult, urljoin, urlsplit

from diptych.core.errors import DiptychError, Forbidden, InvalidRequest, TooLarge, Unavailable
from diptych.library.addresses import Address, AllowList, resolve
from diptych.settings import Settings

MAX_REDIRECTS = 5
MAX_URL = 8192
PORTS = {"http": 80, "https": 443}
_MOVED = (301, 302, 303, 307, 308)
_BLOCK = 64 * 1024


@dataclass(frozen=True)
class Fetched:
    """`media_type` is what the server says it is, without parameters; `url` is where it came from in the end."""

    data: bytes
    media_type: str
    url: str


def fetch_allowed(url: str, settings: Settings, *, param: str) -> Fetched:
    """What is at `url`. Blocks: call it in a worker thread.

    Args:
        param: what the client calls the field, for the errors.

    Raises:
        Forbidden: the host, or the address it has, is not allowed; nothing was sent to it.
        InvalidRequest: no http(s) URL, or there is nothing there.
        TooLarge: more than `settings.max_fetch_bytes`. Unavailable: it did not answer in `settings.fetch_seconds`.
    """
    allowed = AllowList.of(settings.fetch_hosts)
    deadline = time.monotonic() + settings.fetch_seconds
    for _ in range(MAX_REDIRECTS + 1):
        parts = _checked(url, allowed, param)
        with _answer(parts, _addresses(parts, allowed, param), deadline, param) as answer:
            place = answer.getheader("location")
            if answer.status in _MOVED and place:
                url = urljoin(url, place)
                continue
            if answer.status != 200:
                raise InvalidRequest(
                    f"{param}: {parts.hostname} answered {answer.status}, not 200", param=param, code="fetch_failed")
            data = _read(answer, settings.max_fetch_bytes, deadline, param)
            kind = (answer.getheader("content-type") or "").partition(";")[0].strip().lower()
            return Fetched(data, kind or "application/octet-stream", url)
    raise InvalidRequest(f"{param} is redirected more than {MAX_REDIRECTS} times", param=param, code="fetch_failed")


@dataclass(frozen=True)
class Sent:
    """What a service answered, with any status."""

    status: int
    data: bytes


def send_allowed(
    url: str, settings: Settings, *, method: str, body: bytes | None, headers: Mapping[str, str], seconds: float,
    param: str,
) -> Sent:
    """What a service at `url` answers to a request; a redirect is an answer. Blocks: call it in a worker thread.

    Args:
        body: JSON; None for a request without one.

    Raises:
        As `fetch_allowed`.
    """
    allowed = AllowList.of(settings.fetch_hosts)
    deadline = time.monotonic() + seconds
    parts = _checked(url, allowed, param)
    more = {**headers, **({} if body is None else {"Content-Type": "application/json"})}
    with _answer(parts, _addresses(parts, allowed, param), deadline, param, method, body, more) as answer:
        return Sent(answer.status, _read(answer, settings.max_fetch_bytes, deadline, param))


def _checked(url: str, allowed: AllowList, param: str) -> SplitResult:
    """The parts of a URL whose host may be asked."""
    wrong = InvalidRequest(f"{param} {url[:100]!a} is no http:// or https:// URL", param=param, code="invalid_url")
    if len(url) > MAX_URL or not url.isascii() or not url.isprintable() or " " in url or "\\" in url:
        raise wrong
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise wrong from None
    if parts.scheme not in PORTS or not parts.hostname or port == 0:
        raise wrong
    if parts.username is not None or parts.password is not None:
        raise InvalidRequest(f"{param} contains a user name; URLs with one are not fetched", param=param,
                             code="invalid_url")
    if not allowed.names_host(parts.hostname):
        raise Forbidden(
            f"{param}: URLs of {parts.hostname[:100]!a} are not fetched; send the content itself (base64), or have the "
            "operator add the host to the setting fetch_hosts", param=param, code="url_not_allowed")
    return parts


def _addresses(parts: SplitResult, allowed: AllowList, param: str) -> list[Address]:
    """Where the host is. One address that is not allowed has the whole name refused."""
    assert parts.hostname is not None
    try:
        found = resolve(parts.hostname, parts.port or PORTS[parts.scheme])
    except (OSError, UnicodeError, ValueError):
        found = []
    if not found:
        raise InvalidRequest(f"{param}: there is no host {parts.hostname[:100]!a}", param=param, code="fetch_failed")
    if not all(allowed.permits(address) for address in found):
        raise Forbidden(
            f"{param}: {parts.hostname[:100]!a} is not a public address; nothing is fetched from there, unless "
            "the setting fetch_hosts names its network", param=param, code="url_not_allowed")
    return found


@contextlib.contextmanager
def _answer(
    parts: SplitResult, addresses: list[Address], deadline: float, param: str, method: str = "GET",
    body: bytes | None = None, headers: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[http.client.HTTPResponse]:
    """The answer's head has been read. Whatever hangs is cut off at the deadline."""
    connection = _Pinned(parts, addresses, max(0.1, deadline - time.monotonic()))
    cut = threading.Timer(max(0.1, deadline - time.monotonic()), connection.cut)
    cut.daemon = True
    cut.start()
    try:
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection.request(method, path, body, {"Accept": "*/*", "Accept-Encoding": "identity", "User-Agent": "diptych",
                                                **headers})
        yield connection.getresponse()
    except DiptychError:
        raise
    except (OSError, http.client.HTTPException, ValueError, AttributeError) as error:
        late = time.monotonic() >= deadline
        raise Unavailable(
            f"{param}: {parts.hostname} " + ("did not answer in time" if late else
                                             f"could not be asked ({type(error).__name__})"),
            param=param, code="fetch_failed") from None
    finally:
        cut.cancel()
        connection.close()


def _read(answer: http.client.HTTPResponse, limit: int, deadline: float, param: str) -> bytes:
    told = TooLarge(f"{param}: what the URL names has more than {limit} bytes", param=param, code="fetch_too_large")
    announced = answer.getheader("content-length", "")
    if announced.isdecimal() and int(announced[:20]) > limit:
        raise told
    parts: list[bytes] = []
    size = 0
    while block := answer.read1(_BLOCK):
        size += len(block)
        if size > limit:
            raise told
        if time.monotonic() >= deadline:
            raise TimeoutError
        parts.append(block)
    if answer.length:  # the connection ended before all that was announced
        raise http.client.IncompleteRead(b"")
    return b"".join(parts)


class _Pinned(http.client.HTTPConnection):
    """A connection to these addresses, whatever the name means by now; the certificate is held against the name."""

    def __init__(self, parts: SplitResult, addresses: list[Address], seconds: float) -> None:
        assert parts.hostname is not None
        super().__init__(parts.hostname, parts.port or PORTS[parts.scheme], timeout=seconds)
        self._addresses, self._secure = addresses, parts.scheme == "https"
        self.default_port = PORTS[parts.scheme]  # leaves the usual port out of Host

    def connect(self) -> None:
        for number, address in enumerate(self._addresses, 1):
            try:
                self.sock = socket.create_connection((str(address), self.port), self.timeout)
                break
            except OSError:
                if number == len(self._addresses):
                    raise
        if self._secure:
            self.sock = ssl.create_default_context().wrap_socket(self.sock, server_hostname=self.host)

    def cut(self) -> None:
        """From the timer's thread: whoever waits for this connection hears its end."""
        with contextlib.suppress(OSError, AttributeError):
            self.sock.shutdown(socket.SHUT_RDWR)
