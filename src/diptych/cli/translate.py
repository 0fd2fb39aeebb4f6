"""`diptych translate`: a text in another language."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from diptych.cli.options import AsJson, DataDir, Server

EPILOG = """\b
Examples:
  diptych translate "Good morning!" --to French
  diptych translate --file letter.txt --to German --term "job=Auftrag"
  cat notes.md | diptych translate --to Spanish > notas.md"""


def translate(
    texts: Annotated[list[str] | None, typer.Argument(
        show_default=False, help="Texts. Without any: all of --file, or of standard input, as one.")] = None,
    to: Annotated[str, typer.Option("--to", metavar="LANGUAGE", show_default=False, help="Language to write in.")] = "",
    source: Annotated[str, typer.Option("--from", metavar="LANGUAGE", help="Language of the text.")] = "auto",
    terms: Annotated[list[str] | None, typer.Option(
        "--term", metavar="WORD=WORD", show_default=False, help="How a word is to be translated.")] = None,
    file: Annotated[str | None, typer.Option(show_default=False, help="File to translate.")] = None,
    model: Annotated[str, typer.Option(help="Text model, by its id.")] = "starter-text",
    as_json: AsJson = False,
    server: Server = None,
    data_dir: DataDir = None,
) -> None:
    """Translate texts. They come as they are written, line breaks and markup kept."""
    from diptych.cli.client import LONG
    from diptych.cli.connect import connected
    from diptych.cli.errors import USAGE, CliError
    from diptych.cli.inputs import whole_text
    from diptych.cli.output import print_json

    if not to:
        raise CliError("name the language: --to French", status=USAGE)
    glossary = {}
    for term in terms or ():
        word, separator, other = term.partition("=")
        if not separator or not word.strip() or not other.strip():
            raise CliError(f"--term: {term!r} is not WORD=WORD", status=USAGE)
        glossary[word.strip()] = other.strip()
    given = whole_text(texts, file)
    body = {"model": model, "text": given, "target": to, "source": source, "glossary": glossary}
    with connected(server, data_dir) as api:
        if as_json:
            print_json(api.request("POST", "/api/translate", body=body, timeout=LONG))
            return
        for text in given:  # one after the other, so that each can be shown as it comes
            _stream(api, {**body, "text": text, "stream": True})


def _stream(api: Any, body: dict[str, Any]) -> None:
    from diptych.cli.errors import CliError, ServerError

    begun, reason = False, None
    for event in api.sse("POST", "/api/translate", body=body):
        if event["type"] == "error":
            raise ServerError(str(event["error"]["message"]), code=event["error"].get("code"))
        if event["type"] == "delta":
            piece = event["text"] if begun else event["text"].lstrip("\n")
            begun = begun or bool(piece)
            print(piece, end="", flush=True)
        elif event["type"] == "done":
            reason = event["finish_reason"]
    print(flush=True)
    if reason != "stop":
        raise CliError(f"the translation is not whole: it ended with {reason}")
