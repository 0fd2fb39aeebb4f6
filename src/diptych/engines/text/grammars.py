"""Checks a grammar before llama.cpp sees it: llama.cpp answers without any constraint where a grammar is invalid."""

from __future__ import annotations

import threading
from collections import OrderedDict

import llguidance

from diptych.core.errors import InvalidRequest
from diptych.core.grammars import with_ids
from diptych.engines.text.vocabulary import Vocabulary

HEADER = "%llguidance {}"
"""Tells llama.cpp that a grammar is llguidance's Lark, not its own GBNF."""
KNOWN = 256
"""Grammars whose check is remembered."""


class Grammars:
    """The grammars of one model. Safe from any thread."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._controls = {vocabulary.tokens[id]: id for id in vocabulary.special}
        self._lock = threading.Lock()
        self._tokenizer: llguidance.LLTokenizer | None = None
        self._known: OrderedDict[str, str] = OrderedDict()

    def prepared(self, grammar: str) -> str:
        """`grammar` as llama.cpp takes it.

        Raises:
            InvalidRequest: it is not valid, or names a special token that this model does not have.
        """
        grammar = with_ids(grammar, self._controls)
        with self._lock:
            if grammar not in self._known:
                self._known[grammar] = llguidance.LLMatcher.validate_grammar(grammar, self._made())
                if len(self._known) > KNOWN:
                    self._known.popitem(last=False)
            self._known.move_to_end(grammar)
            problem = self._known[grammar]
        if problem:
            raise InvalidRequest(f"grammar is not valid: {problem.strip()[:400]}", param="grammar",
                                 code="invalid_grammar")
        return grammar if grammar.lstrip().startswith("%llguidance") else f"{HEADER}\n{grammar}"

    def matcher(self, grammar: str) -> llguidance.LLMatcher:
        """What holds the tokens of one answer to `grammar`. Raises InvalidRequest as `prepared` does."""
        ready = self.prepared(grammar)
        with self._lock:
            matcher = llguidance.LLMatcher(self._made(), ready)
        if matcher.is_error():
            raise InvalidRequest(f"grammar is not valid: {matcher.get_error().strip()[:400]}", param="grammar",
                                 code="invalid_grammar")
        return matcher

    def _made(self) -> llguidance.LLTokenizer:
        if self._tokenizer is None:
            self._tokenizer = llguidance.LLTokenizer(
                llguidance.TokenizerWrapper(_Tokens(self._vocabulary)), n_vocab=len(self._vocabulary))
        return self._tokenizer


class _Tokens:
    """The vocabulary in the form that llguidance asks for."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.tokens = [vocabulary.bytes_of(id) for id in range(len(vocabulary))]
        self.special_token_ids = list(vocabulary.special)
        self.bos_token_id = vocabulary.bos
        self.eos_token_id = vocabulary.eos if vocabulary.eos is not None else 0
        special = set(vocabulary.special)
        self._bytes = {text: id for id, text in enumerate(self.tokens) if len(text) == 1 and id not in special}

    def __call__(self, text: bytes | str) -> list[int]:
        """Byte by byte: enough to check a grammar, where no text is ever chosen."""
        raw = text.encode() if isinstance(text, str) else text
        return [self._bytes[bytes([byte])] for byte in raw if bytes([byte]) in self._bytes]
