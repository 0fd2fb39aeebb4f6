"""Tokenizers of model folders, in the form that prompts are made with."""

from __future__ import annotations

import json
import re
from functools import cached_property
from pathlib import Path
from typing import Any

import jinja2
from mistral_common.tokens.tokenizers.base import SpecialTokenPolicy
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from diptych.core.errors import InvalidRequest
from diptych.engines.text.vocabulary import BYTE, CONTROL, NORMAL, USER_DEFINED, Vocabulary, byte_characters

_BYTE = re.compile(r"^<0x[0-9A-Fa-f]{2}>$")


class FastTokens:
    """The tokenizer of tokenizer.json and the chat template beside it. Safe from any thread.

    Args:
        folder: the model's.
        template: a chat template instead of the folder's own.

    Raises:
        InvalidRequest: the folder has no tokenizer that can be used.
    """

    def __init__(self, folder: Path, template: str | None = None) -> None:
        try:
            self.tokenizer: Any = AutoTokenizer.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False, use_fast=True)
            written = self.tokenizer.backend_tokenizer.to_str()
        except (OSError, ValueError, ImportError, AttributeError, KeyError) as error:
            raise InvalidRequest(
                f"model {folder.name!r} has no tokenizer that can be read (tokenizer.json or tekken.json): "
                f"{_line(error)}", param="model") from error
        self._marked, self._plain = Tokenizer.from_str(written), Tokenizer.from_str(written)
        for tokenizer in (self._marked, self._plain):
            tokenizer.no_truncation()
            tokenizer.no_padding()
        self._plain.encode_special_tokens = True
        self._written: dict[str, Any] = json.loads(written)
        if template is not None:
            self.tokenizer.chat_template = template

    @cached_property
    def template(self) -> str:
        """The chat template; empty where there is none."""
        try:
            return str(self.tokenizer.get_chat_template())
        except ValueError:
            return ""

    def tokens(self, text: str, *, special: bool = True, begin: bool = False) -> list[int]:
        ids = list((self._marked if special else self._plain).encode(text, add_special_tokens=begin).ids)
        # What ends a text of its own does not belong before its continuation.
        while begin and len(ids) > 1 and ids[-1] == self.tokenizer.eos_token_id and not text.endswith(
                str(self.tokenizer.eos_token)):
            ids.pop()
        return ids

    def whole(self, text: str, pair: str | None = None) -> tuple[list[int], list[int]]:
        """Ids and segment numbers of a text of its own, or of two, with all tokens that belong around them."""
        found = self._plain.encode(text, pair, add_special_tokens=True)
        return list(found.ids), list(found.type_ids)

    def text(self, tokens: list[int]) -> str:
        return str(self._marked.decode(tokens, skip_special_tokens=False))

    def prompt(self, body: dict[str, Any]) -> str:
        if not self.template:
            raise InvalidRequest("this model has no chat template, it only continues texts: use /v1/completions, or "
                                 "load it with the option chat_template", param="messages", code="template_refused")
        options = {name: value for name, value in body.get("chat_template_kwargs", {}).items() if name not in _TAKEN}
        try:
            return str(self.tokenizer.apply_chat_template(
                [_with_objects(message) for message in body["messages"]], tools=body.get("tools"), tokenize=False,
                add_generation_prompt=bool(body.get("add_generation_prompt", True)), **options))
        except (jinja2.TemplateError, TypeError, ValueError, KeyError, AttributeError, IndexError) as error:
            raise InvalidRequest(f"the model's chat template refuses these messages: {_line(error)}",
                                 param="messages", code="template_refused") from error

    def vocabulary(self, size: int) -> Vocabulary:
        """The first `size` tokens; ids that the tokenizer does not have are control tokens that are never chosen."""
        ids: dict[str, int] = self._marked.get_vocab(with_added_tokens=True)
        added = {item["id"]: CONTROL if item["special"] else USER_DEFINED for item in self._written["added_tokens"]}
        tokens = [f"<unused-{id}>" for id in range(size)]
        types = [CONTROL] * size
        fallback = bool(self._written["model"].get("byte_fallback"))
        for token, id in ids.items():
            if id < size:
                tokens[id] = token
                types[id] = added.get(id, BYTE if fallback and _BYTE.match(token) else NORMAL)
        kind = "gpt2" if '"ByteLevel"' in json.dumps(self._written.get("decoder")) else "llama"
        return Vocabulary(model=kind, pre="", tokens=tuple(tokens), types=tuple(types),
                          bos=self.tokenizer.bos_token_id, eos=self.tokenizer.eos_token_id, fim={})


class TekkenTokens:
    """Mistral's own tokenizer, of tekken.json. Safe from any thread."""

    template = ""

    def __init__(self, tekken: Any) -> None:
        self._tekken = tekken
        self._names = {self._name(id): id for id in range(tekken.num_special_tokens)}
        self._cut = re.compile("(" + "|".join(re.escape(name) for name in self._names) + ")")

    def tokens(self, text: str, *, special: bool = True, begin: bool = False) -> list[int]:
        ids = [self._tekken.bos_id] if begin else []
        for part in self._cut.split(text) if special else [text]:
            ids += [self._names[part]] if special and part in self._names else self._tekken.encode(part, False, False)
        return ids

    def whole(self, text: str, pair: str | None = None) -> tuple[list[int], list[int]]:
        ids = self.tokens(text if pair is None else f"{text}{pair}", special=False, begin=True)
        return ids, [0] * len(ids)

    def text(self, tokens: list[int]) -> str:
        return str(self._tekken.decode(tokens, special_token_policy=SpecialTokenPolicy.KEEP))

    def prompt(self, body: dict[str, Any]) -> str:
        raise InvalidRequest("prompts of this model are made by mistral-common, which has no template",
                             param="messages", code="template_refused")

    def vocabulary(self, size: int) -> Vocabulary:
        table, special = byte_characters(), self._tekken.num_special_tokens
        known = min(size, self._tekken.n_words)
        words = ("".join(table[byte] for byte in self._tekken.id_to_byte_piece(id)) for id in range(special, known))
        unused = [f"<unused-{id}>" for id in range(known, size)]
        return Vocabulary(
            model="gpt2", pre="tekken", tokens=(*self._names, *words, *unused),
            types=(*[CONTROL] * special, *[NORMAL] * (known - special), *[CONTROL] * len(unused)),
            bos=self._tekken.bos_id, eos=self._tekken.eos_id, fim={})

    def _name(self, id: int) -> str:
        return str(self._tekken.id_to_piece(id))


_TAKEN = frozenset({"conversation", "tools", "tokenize", "add_generation_prompt", "chat_template", "return_dict",
                    "return_tensors", "padding", "truncation", "max_length", "continue_final_message",
                    "tokenizer_kwargs", "documents", "return_assistant_tokens_mask"})
"""Names of transformers' own arguments: options of a template cannot take their place."""


def _with_objects(message: dict[str, Any]) -> dict[str, Any]:
    """Templates get the arguments of calls as objects, not as text."""
    if "tool_calls" not in message:
        return message
    return {**message, "tool_calls": [
        {**call, "function": {**call["function"], "arguments": json.loads(call["function"]["arguments"])}}
        for call in message["tool_calls"]]}


def _line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:300]
