"""Tools that the server itself runs, as its operator describes them."""

from __future__ import annotations

import re
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from diptych.core.chat import NAME

_HEADER = re.compile(r"[A-Za-z0-9-]{1,100}")
_VALUE = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]{0,4000}[\x21-\x7e])?")
_OURS = frozenset({"host", "content-length", "content-type", "transfer-encoding", "connection", "accept-encoding"})
SERVER = r"^[a-zA-Z0-9_-]{1,60}$"


class HttpTool(BaseModel):
    """A function that is a web service. `{name}` in the path or query of `url` is replaced by that argument; the others
    are the query of a GET, or the JSON object that is the body of a POST."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=NAME)
    description: str = Field("", max_length=10_000)
    parameters: dict[str, Any] = Field(default_factory=lambda: {"type": "object", "properties": {}})
    url: str = Field(min_length=1, max_length=4000)
    method: Literal["GET", "POST"] = "POST"
    headers: dict[str, str] = Field(default_factory=dict, max_length=50, description="sent along, and never shown")
    timeout_seconds: float = Field(20.0, gt=0, le=600)

    @field_validator("url")
    @classmethod
    def _url(cls, url: str) -> str:
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            raise ValueError("this is no URL") from None
        if parts.scheme not in ("http", "https") or not parts.hostname or port == 0 or "@" in parts.netloc:
            raise ValueError("this is no http:// or https:// URL without a user name")
        if "{" in parts.netloc or not url.isascii() or not url.isprintable() or " " in url:
            raise ValueError("the host is fixed, and the URL is ASCII without spaces")
        return url

    @field_validator("headers")
    @classmethod
    def _headers(cls, headers: dict[str, str]) -> dict[str, str]:
        for name, value in headers.items():
            if not _HEADER.fullmatch(name) or name.lower() in _OURS or not _VALUE.fullmatch(value):
                raise ValueError(f"{name[:60]!a} is no header that can be sent along")
        return headers


class McpServer(BaseModel):
    """A server of the Model Context Protocol: a program that is started (`command`), or an address (`url`)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    command: str | None = Field(None, min_length=1, description="program that speaks over standard input and output")
    args: tuple[str, ...] = ()
    env: dict[str, str] = Field(default_factory=dict, description="more environment variables of the program")
    url: str | None = Field(None, pattern=r"^https?://", description="address of a server over streamable HTTP")
    headers: dict[str, str] = Field(default_factory=dict, description="sent to that address")
    timeout_seconds: float = Field(60.0, gt=0, le=3600, description="how long starting, or one call, may take")

    @model_validator(mode="after")
    def _one_way(self) -> McpServer:
        if (self.command is None) == (self.url is None):
            raise ValueError("give either command or url")
        return self
