"""`diptych collection`: documents that answers can rest on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer

from diptych.cli.errors import USAGE, CliError
from diptych.cli.options import AsJson, DataDir, Server

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Keep documents, search them, and take them away.")
ENDINGS = (".txt", ".text", ".md", ".markdown", ".html", ".htm", ".xhtml", ".pdf")
"""Files of a folder that are added."""

Name = Annotated[str, typer.Argument(help="Name of the collection.")]


@app.command()
def create(
    name: Name,
    model: Annotated[str | None, typer.Option(
        show_default=False, help="Model that makes the vectors of the passages. Default: none, search by words.")
    ] = None,
    description: Annotated[str, typer.Option(show_default=False, help="What it is about.")] = "",
    characters: Annotated[int, typer.Option(help="Most characters of a passage.")] = 1000,
    overlap: Annotated[int, typer.Option(help="Most characters that neighbouring passages share.")] = 100,
    as_json: AsJson = False, server: Server = None, data_dir: DataDir = None,
) -> None:
    """Make an empty collection."""
    body = {"name": name, "model": model, "description": description, "characters": characters, "overlap": overlap}
    _tell(_asked("POST", "", server, data_dir, body=body), f"collection {name} is made", as_json)


@app.command()
def add(
    name: Name,
    files: Annotated[list[Path], typer.Argument(help="Text, Markdown, HTML and PDF files, or folders of them.")],
    as_json: AsJson = False, server: Server = None, data_dir: DataDir = None,
) -> None:
    """Add files. Each is added whole or not at all."""
    from diptych.cli.connect import connected
    from diptych.cli.output import print_json, say

    made: list[dict[str, Any]] = []
    with connected(server, data_dir) as api:
        for path in _files(files):
            try:
                data = path.read_bytes()
            except OSError as error:
                raise CliError(f"{path} cannot be read: {error.strerror}") from error
            answer = api.upload(f"{_place(name)}/documents", path.name, data)
            made += answer["documents"]
            if not as_json:
                [one] = answer["documents"]
                say(f"{path}: {one['id']}, {one['characters']} characters, {one['passages']} passages")
    if as_json:
        print_json({"documents": made})


@app.command("list")
def list_collections(
    name: Annotated[str | None, typer.Argument(
        show_default=False, help="Collection whose documents are listed.")] = None,
    as_json: AsJson = False, server: Server = None, data_dir: DataDir = None,
) -> None:
    """All collections, or the documents of one."""
    from diptych.cli.output import print_json, print_table, table

    if name is None:
        found = _asked("GET", "", server, data_dir)["collections"]
        made = table("collection", "documents", "passages", "model", "about")
        for one in found:
            made.add_row(one["name"], str(one["documents"]), str(one["passages"]), one["model"] or "",
                         one["description"])
    else:
        found = _documents(name, server, data_dir)
        made = table("document", "title", "characters", "passages")
        for one in found:
            made.add_row(one["id"], one["title"], str(one["characters"]), str(one["passages"]))
    if as_json:
        print_json({"collections" if name is None else "documents": found})
    else:
        print_table(made)


@app.command()
def search(
    name: Name, query: Annotated[str, typer.Argument(help="What is looked for.")],
    top_k: Annotated[int, typer.Option("--top", help="Passages.")] = 5,
    mode: Annotated[str | None, typer.Option(
        show_default=False, help="hybrid, keyword or vector. Default: hybrid where the collection has a model.")
    ] = None,
    as_json: AsJson = False, server: Server = None, data_dir: DataDir = None,
) -> None:
    """Find passages."""
    from diptych.cli.output import print_json, say

    body = {"query": query, "top_k": top_k, **({} if mode is None else {"mode": mode})}
    found = _asked("POST", f"/{quote(name, safe='')}/search", server, data_dir, body=body)
    if as_json:
        print_json(found)
        return
    for one in found["results"]:
        print(f"{one.get('title') or one['id']} ({one['id']}, {one['start']}–{one['end']}):\n{one['text']}\n")
    say(f"{len(found['results'])} passages ({found['mode']})")


@app.command()
def rm(
    name: Name,
    document: Annotated[str | None, typer.Argument(show_default=False, help="A document; else all of it goes.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before a whole collection goes.")] = False,
    as_json: AsJson = False, server: Server = None, data_dir: DataDir = None,
) -> None:
    """Delete a document, or a whole collection."""
    if document is None and not yes:
        typer.confirm(f"Delete collection {name} with all its documents?", abort=True)
    path = f"/{quote(name, safe='')}" + ("" if document is None else f"/documents/{quote(document, safe='')}")
    _tell(_asked("DELETE", path, server, data_dir), f"{document or f'collection {name}'} is deleted", as_json)


def _asked(method: str, path: str, server: str | None, data_dir: Path | None, **more: Any) -> Any:
    from diptych.cli.client import LONG
    from diptych.cli.connect import connected

    with connected(server, data_dir) as api:
        return api.request(method, f"/api/collections{path}", timeout=LONG, **more)


def _documents(name: str, server: str | None, data_dir: Path | None) -> list[dict[str, Any]]:
    from diptych.cli.connect import connected

    found: list[dict[str, Any]] = []
    params: dict[str, Any] = {"limit": 1000}
    with connected(server, data_dir) as api:
        while True:
            page = api.request("GET", f"{_place(name)}/documents", params=params)
            found += page["documents"]
            if page["next"] is None:
                return found
            params["after"] = page["next"]


def _place(name: str) -> str:
    return f"/api/collections/{quote(name, safe='')}"


def _files(given: list[Path]) -> Iterator[Path]:
    for path in given:
        if not path.exists():
            raise CliError(f"{path} does not exist", status=USAGE)
        if not path.is_dir():
            yield path
            continue
        for inner in sorted(path.rglob("*")):
            if inner.is_file() and inner.suffix.lower() in ENDINGS and not inner.name.startswith("."):
                yield inner


def _tell(answer: Any, words: str, as_json: bool) -> None:
    from diptych.cli.output import print_json, say

    if as_json:
        print_json(answer)
    else:
        say(words)
