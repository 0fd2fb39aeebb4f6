"""Prompts of Mistral's models, made by Mistral's own library over the vocabulary of the model's file.

The Tekken vocabulary and its control tokens are read from the GGUF header, so that the ids are the model's own; the
order of control tokens around messages, tools and results is mistral-common's for the version of the prompt.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

import mistral_common
import numpy as np
from mistral_common.exceptions import MistralCommonException
from mistral_common.protocol.fim.request import FIMRequest
from mistral_common.protocol.instruct.chunk import ImageChunk, TextChunk, ThinkChunk
from mistral_common.protocol.instruct.messages import AssistantMessage, SystemMessage, ToolMessage, UserMessage
from mistral_common.protocol.instruct.normalize import get_normalizer
from mistral_common.protocol.instruct.request import ChatCompletionRequest
from mistral_common.protocol.instruct.tool_calls import Function, FunctionCall
from mistral_common.protocol.instruct.tool_calls import Tool as MistralTool
from mistral_common.protocol.instruct.tool_calls import ToolCall as MistralCall
from mistral_common.protocol.instruct.validator import ValidationMode, get_validator
from mistral_common.tokens.tokenizers.base import SpecialTokenPolicy, TokenizerVersion
from mistral_common.tokens.tokenizers.image import ImageConfig, ImageEncoder, ImageEncoding
from mistral_common.tokens.tokenizers.instruct import (
    InstructTokenizerV3,
    InstructTokenizerV7,
    InstructTokenizerV11,
    InstructTokenizerV13,
)
from mistral_common.tokens.tokenizers.mistral import MistralTokenizer, load_image_encoder
from mistral_common.tokens.tokenizers.tekken import SpecialTokenInfo, Tekkenizer, TokenInfo
from PIL import Image
from pydantic import ValidationError

from diptych.core.chat import ImagePart, Message, Tool
from diptych.core.errors import InvalidRequest
from diptych.engines.text.vocabulary import NORMAL, Vocabulary

_INSTRUCT = {"v3": InstructTokenizerV3, "v7": InstructTokenizerV7, "v11": InstructTokenizerV11,
             "v13": InstructTokenizerV13}
_PATCH = 16
"""Pixels; a picture of one patch stands for every picture while the prompt is made."""


class MistralPrompts:
    """Prompts for one model.

    Args:
        version: "mistral-v3", "mistral-v7", "mistral-v11" or "mistral-v13", as the model's card says.

    Raises:
        ValueError: the vocabulary is not a Tekken one.
    """

    def __init__(self, vocabulary: Vocabulary, version: str) -> None:
        self.tokenizer = make_tokenizer(vocabulary, TokenizerVersion(version.removeprefix("mistral-")))
        self._tekken: Any = self.tokenizer.instruct_tokenizer.tokenizer
        self._image_ids = {self._tekken.get_special_token(name) for name in ("[IMG]", "[IMG_BREAK]", "[IMG_END]")}
        self._image_end = self._tekken.get_special_token("[IMG_END]")

    def chat(self, messages: Sequence[Message], tools: Sequence[Tool]) -> list[int]:
        """Token ids of the prompt. Each picture is one `[IMG][IMG_END]`, whatever its size.

        Raises:
            InvalidRequest: mistral-common refuses the conversation, and why.
        """
        return self.encode(messages, tools, lambda part: Image.new("RGB", (_PATCH, _PATCH)))

    def encode(
        self, messages: Sequence[Message], tools: Sequence[Tool], picture: Callable[[ImagePart], Image.Image],
    ) -> list[int]:
        """As `chat`; `picture` gives the pixels that the tokens of each picture are counted from."""
        version = self.tokenizer.version
        try:
            request: ChatCompletionRequest[Any] = ChatCompletionRequest(
                messages=[_message(message, version, picture) for message in messages],
                tools=[_tool(tool) for tool in tools] or None)
            return list(self.tokenizer.encode_chat_completion(request).tokens)
        except (MistralCommonException, ValidationError, ValueError, AssertionError) as error:
            first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
            raise InvalidRequest(f"messages do not make a prompt of {version.value}: {first.strip()[:300]}",
                                 param="messages") from error

    def infill(self, prefix: str, suffix: str) -> list[int]:
        """Token ids of a gap to be filled, `[SUFFIX]…[PREFIX]…`."""
        return list(self.tokenizer.encode_fim(FIMRequest(prompt=prefix, suffix=suffix)).tokens)

    def text(self, tokens: Sequence[int], marker: str) -> str:
        """`tokens` as text, with `marker` where a picture is, and without the first `<s>`, which llama.cpp adds: the
        form in which llama.cpp takes pictures."""
        parts: list[str] = []
        run: list[int] = []
        for token in tokens[1:] if tokens and tokens[0] == self._tekken.bos_id else tokens:
            if token not in self._image_ids:
                run.append(token)
                continue
            if token == self._image_end:
                parts += [self._decode(run), marker]
                run = []
        return "".join([*parts, self._decode(run)])

    def _decode(self, tokens: list[int]) -> str:
        return str(self._tekken.decode(tokens, special_token_policy=SpecialTokenPolicy.KEEP)) if tokens else ""


def make_tokenizer(vocabulary: Vocabulary, version: TokenizerVersion) -> MistralTokenizer[Any, Any, Any, Any, Any]:
    """mistral-common's tokenizer of this vocabulary.

    Raises:
        ValueError: it is not a Tekken vocabulary.
    """
    special = len(list(takewhile(lambda type: type != NORMAL, vocabulary.types)))
    ranks = range(len(vocabulary) - special)
    words: list[TokenInfo] = [
        {"rank": rank, "token_bytes": base64.b64encode(vocabulary.bytes_of(special + rank)).decode(), "token_str": None}
        for rank in ranks]
    controls: list[SpecialTokenInfo] = [
        {"rank": rank, "token_str": vocabulary.tokens[rank], "is_control": True} for rank in range(special)]
    image = ImageConfig(image_patch_size=_PATCH, max_image_size=_PATCH)
    try:
        tekken = Tekkenizer(words, controls, _pattern(), len(vocabulary), special, version, image_config=image)
    except AssertionError as error:
        raise ValueError("the vocabulary is not one of Tekken") from error
    pictures = _OneToken(image, load_image_encoder(image, tekken).special_ids)
    instruct = _INSTRUCT[version.value](tekken, image_encoder=pictures)
    return MistralTokenizer(
        instruct, validator=get_validator(version, mode=ValidationMode.test),
        request_normalizer=get_normalizer(version, None))


class _OneToken(ImageEncoder):  # type: ignore[misc]
    """Stands in for every picture while the prompt is made: llama.cpp makes its tokens from the picture itself."""

    def __call__(self, content: Any) -> ImageEncoding:
        return ImageEncoding([self.special_ids.img, self.special_ids.img_end], np.zeros((3, _PATCH, _PATCH)))


def _pattern() -> str:
    """Tekken's expression that splits text into words, from the head of a vocabulary that mistral-common ships."""
    path = Path(mistral_common.__file__).parent / "data" / "tekken_240911.json"
    with path.open(encoding="utf-8") as file:
        head = file.read(8192)
    config, _ = json.JSONDecoder().raw_decode(head, head.index("{", head.index('"config"')))
    return str(config["pattern"])


def _message(message: Message, version: TokenizerVersion, picture: Callable[[ImagePart], Image.Image]) -> Any:
    if message.role == "system":
        return SystemMessage(content=message.text)
    if message.role == "tool":
        return ToolMessage(content=message.text, tool_call_id=message.tool_call_id, name=message.name)
    if message.role == "assistant":
        calls = [MistralCall(id=call.id, function=FunctionCall(name=call.name, arguments=call.arguments))
                 for call in message.tool_calls]
        content: Any = message.text or None
        if message.reasoning and version >= TokenizerVersion.v13:
            content = [ThinkChunk(thinking=message.reasoning), *([TextChunk(text=message.text)] if content else [])]
        return AssistantMessage(content=content, tool_calls=calls or None, prefix=message.prefix)
    if not message.images:
        return UserMessage(content=message.text)
    assert not isinstance(message.content, str)
    return UserMessage(content=[
        TextChunk(text=part.text) if part.type == "text" else ImageChunk(image=picture(part))
        for part in message.content])


def _tool(tool: Tool) -> MistralTool:
    return MistralTool(function=Function(name=tool.name, description=tool.description, parameters=tool.parameters,
                                         strict=tool.strict))
