"""A conversation over `/v1/chat/completions`, and how it looks in a terminal."""

from __future__ import annotations

import os
import select
import stat
import sys
import time
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from diptych.cli.asking import told_calls, told_citations
from diptych.cli.errors import CliError, ServerError
from diptych.cli.output import say

if TYPE_CHECKING:
    from diptych.cli.client import Api

PIPE_SECONDS = 2.0
HELP = """\
/system TEXT   how to answer, from now on (without TEXT: none)
/clear         forget the conversation
/help          this list
/exit          leave (Ctrl-D does too)
Ctrl-C stops an answer."""


@dataclass
class Conversation:
    """The turns so far. `ask` adds a question and, once it is whole or stopped, its answer."""

    api: Api
    model: str
    system: str | None = None
    sampling: dict[str, Any] = field(default_factory=dict)
    turns: list[dict[str, Any]] = field(default_factory=list)
    pictures: list[str] = field(default_factory=list)
    """URLs of pictures that go with the next question."""
    calls: list[dict[str, str]] = field(default_factory=list)
    citations: list[dict[str, Any]] = field(default_factory=list)
    ending: dict[str, Any] = field(default_factory=dict)
    """Of the last answer: what it calls, what it rests on, and its `finish_reason`."""
    usage: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    """From the first piece of the last answer to its last."""

    def ask(self, question: str) -> Generator[str]:
        """Pieces of the answer as they come. A question without any answer is forgotten again."""
        self.add(question)
        answer = ""
        try:
            for piece in self._pieces():
                answer += piece
                yield piece
        finally:
            if answer or self.calls:
                told = "\n".join(part for part in (answer, *told_calls(self.calls)) if part)
                self.turns.append({"role": "assistant", "content": told})
            else:
                self.turns.pop()

    def add(self, question: str) -> None:
        content: Any = question
        if self.pictures:
            content = [*({"type": "image_url", "image_url": {"url": url}} for url in self.pictures),
                       {"type": "text", "text": question}]
            self.pictures = []
        self.turns.append({"role": "user", "content": content})

    def clear(self) -> None:
        self.turns.clear()

    def body(self) -> dict[str, Any]:
        messages = ([{"role": "system", "content": self.system}] if self.system else []) + self.turns
        return {"model": self.model, "messages": messages, **self.sampling}

    def _pieces(self) -> Generator[str]:
        body = {**self.body(), "stream": True, "stream_options": {"include_usage": True}}
        self.usage, self.seconds, self.calls, self.citations, self.ending = {}, 0.0, [], [], {}
        started: float | None = None
        with closing(self.api.sse("POST", "/v1/chat/completions", body=body)) as chunks:
            for chunk in chunks:
                if "error" in chunk:
                    raise ServerError(str(chunk["error"].get("message", "the answer broke off")))
                if chunk.get("usage"):
                    self.usage = chunk["usage"]
                for choice in chunk.get("choices", []):
                    self._see(choice)
                    piece = choice.get("delta", {}).get("content")
                    if piece:
                        started = started if started is not None else time.perf_counter()
                        yield piece
                        self.seconds = time.perf_counter() - started

    def _see(self, choice: dict[str, Any]) -> None:
        """What is not the answer's text."""
        delta = choice.get("delta", {})
        for call in delta.get("tool_calls") or ():
            while len(self.calls) <= call["index"]:
                self.calls.append({"name": "", "arguments": ""})
            for name in ("name", "arguments"):
                self.calls[call["index"]][name] += call["function"].get(name) or ""
        self.citations += delta.get("citations") or ()
        if choice.get("finish_reason"):
            self.ending = choice

    def remark(self) -> str:
        """Why the answer is not whole; empty when it is."""
        reason = self.ending.get("finish_reason")
        if reason == "content_filter":
            scores = self.ending.get("guard", {}).get("blocked", {})
            told = ", ".join(f"{name} {score:.2f}" for name, score in scores.items())
            return f"a guard ended the answer{': ' if told else ''}{told}"
        return {"length": "the answer is cut off: it reached the limit of tokens",
                "repetition": "the answer was ended: it went round in circles"}.get(str(reason), "")

    def speed(self) -> str:
        """`12 tokens, 34.5 tokens/s`; empty when the server told no usage."""
        tokens = self.usage.get("completion_tokens", 0)
        if not tokens:
            return ""
        # The clock starts at the first token, so one less was made in the time.
        rate = f", {(tokens - 1) / self.seconds:.1f} tokens/s" if tokens > 1 and self.seconds > 0 else ""
        return f"{tokens} token{'s' if tokens > 1 else ''}{rate}"


def piped_text(with_question: bool) -> str:
    """Text on standard input when that is a pipe or a file. Beside a question only what begins to arrive within two
    seconds counts, so that a pipe that nobody writes to does not hang the command."""
    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except (OSError, ValueError, AttributeError):
        return ""
    if sys.stdin.isatty() or stat.S_ISCHR(mode):
        return ""
    if with_question and os.name == "posix" and not stat.S_ISREG(mode):
        ready, _, _ = select.select([sys.stdin], [], [], PIPE_SECONDS)
        if not ready:
            say("(nothing comes through the pipe on standard input: asking the question alone)")
            return ""
    try:
        return sys.stdin.read().strip()
    except UnicodeDecodeError as error:
        raise CliError("standard input is no UTF-8 text", status=2) from error


def ask_once(conversation: Conversation, question: str) -> None:
    """The answer and what it calls on standard output, what it rests on and its speed on standard error.

    Raises:
        CliError: a guard ended it, or it was to have a form and is not whole.
    """
    written = False
    for piece in conversation.ask(question):
        print(piece, end="", flush=True)
        written = True
    if written or not conversation.calls:
        print(flush=True)
    for line in told_calls(conversation.calls):
        print(line, flush=True)
    for line in told_citations(conversation.citations):
        say(line)
    if sys.stderr.isatty() and conversation.speed():
        say(f"({conversation.speed()})")
    remark = conversation.remark()
    if remark and (conversation.ending["finish_reason"] == "content_filter"
                   or "response_format" in conversation.sampling):
        raise CliError(remark)
    if remark and sys.stderr.isatty():
        say(f"({remark})")


def talk(conversation: Conversation) -> None:
    """Questions and answers until /exit or Ctrl-D."""
    from rich.console import Console

    _line_editing()
    console = Console(highlight=False)
    console.print(f"[bold]{conversation.model}[/bold] at {conversation.api.url} — /help lists the commands")
    while True:
        try:
            line = console.input("\n[bold cyan]you ›[/bold cyan] ").strip()
        except (EOFError, KeyboardInterrupt):
            console.print()
            return
        if line in ("/exit", "/quit"):
            return
        if line.startswith("/"):
            _command(conversation, line)
        elif line:
            _answer(console, conversation, line)


def _command(conversation: Conversation, line: str) -> None:
    name, _, rest = line.partition(" ")
    if name == "/help":
        print(HELP)
    elif name == "/clear":
        conversation.clear()
        print("The conversation is forgotten.")
    elif name == "/system":
        conversation.system = rest.strip() or None
        print("The system message is set." if conversation.system else "There is no system message now.")
    else:
        print(f"{name} is no command; /help lists them.")


def _answer(console: Any, conversation: Conversation, question: str) -> None:
    note = ""
    try:
        console.print("\n[bold magenta]answer ›[/bold magenta] ", end="")
        with closing(conversation.ask(question)) as pieces:
            for piece in pieces:
                # Not through markup: the model's square brackets are text.
                console.print(piece, end="", markup=False, soft_wrap=True)
        for line in (*told_calls(conversation.calls), *told_citations(conversation.citations)):
            console.print(f"\n{line}", end="", markup=False, style="cyan")
        note = " · ".join(part for part in (conversation.speed(), conversation.remark()) if part)
    except KeyboardInterrupt:
        note = "stopped"
    except CliError as error:
        note = error.message
    console.print()
    if note:
        console.print(note, style="dim", markup=False)


def _line_editing() -> None:
    """Arrow keys and history for `input`, where the platform has readline."""
    try:
        import readline
    except ImportError:
        return
    readline.set_history_length(1000)
