"""`diptych embed`: texts as vectors, and how close they are."""

from __future__ import annotations

from typing import Annotated

import typer

from diptych.cli.options import AsJson, DataDir, Server

EPILOG = """\b
Examples:
  diptych embed "a cat" "a kitten" "a car"
  diptych embed --file sentences.txt --json > vectors.json"""
SHOWN = 12
"""Texts whose nearness is shown as a table."""


def embed(
    texts: Annotated[list[str] | None, typer.Argument(
        show_default=False, help="Texts. Without any: the lines of --file, or of standard input.")] = None,
    dimensions: Annotated[int | None, typer.Option(
        show_default=False, help="Keep the first so many numbers of each vector.")] = None,
    file: Annotated[str | None, typer.Option(show_default=False, help="File with a text on each line.")] = None,
    model: Annotated[str, typer.Option(help="Text model, by its id.")] = "starter-text",
    as_json: AsJson = False,
    server: Server = None,
    data_dir: DataDir = None,
) -> None:
    """Make vectors of texts. Shows how close the texts are; --json gives the numbers."""
    from diptych.cli.client import LONG
    from diptych.cli.connect import connected
    from diptych.cli.inputs import texts_of
    from diptych.cli.output import print_json

    given = texts_of(texts, file)
    body = {"model": model, "input": given, **({} if dimensions is None else {"dimensions": dimensions})}
    with connected(server, data_dir) as api:
        answer = api.request("POST", "/v1/embeddings", body=body, timeout=LONG)
    vectors = [item["embedding"] for item in sorted(answer["data"], key=lambda item: item["index"])]
    if as_json:
        print_json({"model": answer["model"], "dimensions": len(vectors[0]), "data": [
            {"text": text, "embedding": vector} for text, vector in zip(given, vectors, strict=True)]})
    else:
        _show(given, vectors)


def _show(texts: list[str], vectors: list[list[float]]) -> None:
    from rich.text import Text

    from diptych.cli.output import print_table, say, table

    shown = [text if len(text) <= 60 else text[:59] + "…" for text in texts]
    if 1 < len(texts) <= SHOWN:
        made = table("", "text", *(str(number) for number in range(1, len(texts) + 1)))
        for number, (text, vector) in enumerate(zip(shown, vectors, strict=True), 1):
            made.add_row(str(number), Text(text), *(f"{_cosine(vector, other):.2f}" for other in vectors))
    else:
        made = table("text", "vector")
        for text, vector in zip(shown, vectors, strict=True):
            made.add_row(Text(text), Text(f"[{', '.join(f'{value:.4f}' for value in vector[:4])}, …]"))
    print_table(made)
    say(f"{len(vectors)} vector{'s' if len(vectors) > 1 else ''} of {len(vectors[0])} numbers; --json prints them")


def _cosine(one: list[float], other: list[float]) -> float:
    """Both have length 1."""
    return sum(a * b for a, b in zip(one, other, strict=True))

