"""What a conversation is made of: messages with text and pictures, tools and calls, and the form of the answer."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

NAME = r"^[a-zA-Z0-9_.-]{1,128}$"
"""Names of tools."""


class Part(BaseModel):
    """Base of everything inside a conversation: frozen, unknown fields refused, NaN and infinities refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class TextPart(Part):
    type: Literal["text"] = "text"
    text: str


class ImagePart(Part):
    """A picture, decoded and checked at the edge: `data` is base64 of a file of type `media_type`."""

    type: Literal["image"] = "image"
    media_type: Literal["image/png", "image/jpeg", "image/webp", "image/gif", "image/bmp"] = "image/png"
    data: str


ContentPart = Annotated[TextPart | ImagePart, Field(discriminator="type")]


class ToolCall(Part):
    """A call that the assistant made; `arguments` is JSON text of an object."""

    id: str = Field(min_length=1, max_length=200)
    name: str = Field(min_length=1, max_length=200)
    arguments: str = "{}"


class Message(Part):
    """One turn. `tool_calls`, `reasoning` and `prefix` belong to the assistant: what it called, what it thought, and
    that the answer goes on from this very text. A tool's message answers the call `tool_call_id`."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str | tuple[ContentPart, ...] = ""
    name: str | None = Field(None, max_length=200)
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = Field(None, max_length=200)
    reasoning: str | None = None
    prefix: bool = False

    @property
    def text(self) -> str:
        """The text parts, joined."""
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content if isinstance(part, TextPart))

    @property
    def images(self) -> tuple[ImagePart, ...]:
        if isinstance(self.content, str):
            return ()
        return tuple(part for part in self.content if isinstance(part, ImagePart))

    def body(self, content: Any) -> dict[str, Any]:
        """The message as OpenAI's API and chat templates have it, with `content` in the form that the reader takes."""
        body: dict[str, Any] = {"role": self.role, "content": content}
        if self.tool_calls:
            body["tool_calls"] = [{"id": call.id, "type": "function", "function": {
                "name": call.name, "arguments": call.arguments}} for call in self.tool_calls]
        for name, value in (("tool_call_id", self.tool_call_id), ("name", self.name),
                            ("reasoning_content", self.reasoning)):
            if value is not None:
                body[name] = value
        return body


class Tool(Part):
    """A function that the model may call; `parameters` is the JSON schema of its arguments. `strict`: its calls are
    held to the schema also where the model is free to call or not."""

    name: str = Field(pattern=NAME)
    description: str = Field("", max_length=100_000)
    parameters: dict[str, Any] = Field(default_factory=lambda: {"type": "object", "properties": {}})
    strict: bool = False


class NamedChoice(Part):
    """The model has to call this tool."""

    name: str = Field(pattern=NAME)


ToolChoice = Literal["none", "auto", "required"] | NamedChoice


class OutputFormat(Part):
    """The form of the answer. `value`: the JSON schema (json_schema, xml, yaml), the pattern (regex), the list of
    texts (choice), or the grammar (lark, gbnf); nothing for json_object. `field` is what the client calls the
    field that `value` is from."""

    kind: Literal["json_object", "json_schema", "regex", "choice", "lark", "gbnf", "xml", "yaml"]
    value: Any = None
    strict: bool = True
    field: str = Field("response_format", max_length=1000)


class TokenProbability(BaseModel):
    """One token and the natural logarithm of its probability; `top` are the likeliest ones at its place."""

    model_config = ConfigDict(frozen=True)

    token: str
    logprob: float
    bytes: tuple[int, ...] | None = None
    top: tuple[TokenProbability, ...] = ()
