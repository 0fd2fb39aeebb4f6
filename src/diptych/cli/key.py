"""`diptych key`: who may use the server. Works on the data folder itself; a running server follows within seconds."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Annotated, Any

import typer

from diptych.cli.errors import CliError
from diptych.cli.options import AsJson, DataDir

if TYPE_CHECKING:
    from pathlib import Path

    from diptych.core.keys import ApiKey
    from diptych.store.keys import KeyStore

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Make, list and take back API keys.")

Name = Annotated[str, typer.Argument(help="Name of the key; its jobs carry it as their caller.")]
_SPAN = re.compile(r"([0-9]{1,6})([hdwy])")
_UNITS = {"h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1), "y": timedelta(days=365)}


@app.command()
def create(
    name: Name,
    scope: Annotated[list[str] | None, typer.Option(
        metavar="SCOPE", show_default=False, help="What it may do; may be given several times: chat, images, jobs, "
        "models:read, models:write, metrics, admin. Default: chat, images, jobs and models:read.")] = None,
    tokens_per_minute: Annotated[int | None, typer.Option(
        metavar="N", show_default=False, help="Most tokens of prompts and answers. Default: no limit.")] = None,
    pictures_per_hour: Annotated[int | None, typer.Option(
        metavar="N", show_default=False, help="Most pictures. Default: no limit.")] = None,
    max_queued: Annotated[int | None, typer.Option(
        metavar="N", show_default=False, help="Most jobs that wait at once, and most open requests for text. "
        "Default: no limit.")] = None,
    weight: Annotated[int | None, typer.Option(
        metavar="N", show_default=False, help="Share beside other callers: 2 gets twice as much as 1. Default: 1.")
    ] = None,
    expires: Annotated[str | None, typer.Option(
        metavar="WHEN", show_default=False, help="A date (2027-01-31), a time (2027-01-31T12:00:00+00:00), or a span "
        "from now: 12h, 30d, 4w, 1y. Default: never.")] = None,
    data_dir: DataDir = None, as_json: AsJson = False,
) -> None:
    """Make a key and print it: this once, it is kept nowhere."""
    from diptych.core.keys import DEFAULT_SCOPES

    until = moment(expires) if expires else None
    with keys(data_dir) as store:
        key, text = store.create(
            name, scopes=scope or DEFAULT_SCOPES, expires_at=until, tokens_per_minute=tokens_per_minute,
            pictures_per_hour=pictures_per_hour, max_queued=max_queued, weight=weight)
        first = len(store.list()) == 1
    _show_once(key, text, as_json)
    if first:
        from diptych.cli.output import say

        say("From now on the server of this data folder asks every request for a key (see require_key in "
            "docs/security.md); the diptych commands on this machine go on without.")


@app.command("list")
def list_keys(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """All keys, with what they may do; not the keys themselves, which nobody knows any more."""
    from diptych.cli.output import print_json, print_table, say, table

    with keys(data_dir) as store:
        found = store.list()
    if as_json:
        print_json([view(key) for key in found])
        return
    if not found:
        say("There are no keys; make one with: diptych key create NAME")
        return
    made = table("name", "id", "state", "scopes", "tokens/min", "pictures/h", "queued", "weight", "expires")
    for key in found:
        limits = (key.tokens_per_minute, key.pictures_per_hour, key.max_queued, key.weight)
        made.add_row(key.name, key.id, view(key)["state"], " ".join(sorted(key.scopes)),
                     *("" if limit is None else str(limit) for limit in limits),
                     key.expires_at.strftime("%Y-%m-%d %H:%M") if key.expires_at else "")
    print_table(made)


@app.command()
def revoke(name: Name, data_dir: DataDir = None) -> None:
    """Take a key back for good. Its jobs stay."""
    with keys(data_dir) as store:
        store.revoke(name)
    print(f"{name} is revoked; a running server refuses it within seconds")


@app.command()
def rotate(name: Name, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Make a new key for the same name, with the same scopes and limits; the old one is refused from now on."""
    with keys(data_dir) as store:
        key, text = store.rotate(name)
    _show_once(key, text, as_json)


@contextmanager
def keys(data_dir: Path | None) -> Iterator[KeyStore]:
    """The keys in the database of the data folder, which is made where there is none. Raises Unavailable."""
    from diptych.cli.options import load_settings
    from diptych.store.database import Database
    from diptych.store.keys import KeyStore

    settings = load_settings(data_dir=data_dir)
    folder = settings.data_dir.expanduser().resolve()
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise CliError(f"the data folder {folder} cannot be used: {error.strerror or error}") from error
    database = Database(settings.model_copy(update={"data_dir": folder}).url)
    try:
        database.migrate()
        yield KeyStore(database)
    finally:
        database.close()


def moment(text: str) -> datetime:
    """A point in time, in UTC. A date means its beginning here. Raises `typer.BadParameter`."""
    span = _SPAN.fullmatch(text.strip().lower())
    try:
        if span is not None:
            return datetime.now(timezone.utc) + int(span[1]) * _UNITS[span[2]]
        return datetime.fromisoformat(text.strip().replace("Z", "+00:00")).astimezone(timezone.utc)
    except (ValueError, OverflowError, OSError):
        raise typer.BadParameter(
            f"{text!r} is no time; write a date (2027-01-31) or a span from now (12h, 30d, 4w, 1y)",
            param_hint="--expires") from None


def view(key: ApiKey) -> dict[str, Any]:
    """The record as JSON, without its hash."""
    values = key.model_dump(mode="json")
    return {**values, "scopes": sorted(key.scopes), "state": key.state(datetime.now(timezone.utc))}


def _show_once(key: ApiKey, text: str, as_json: bool) -> None:
    from diptych.cli.output import print_json, say

    if as_json:
        print_json({**view(key), "key": text})
        return
    print(text)
    say(f"This is the key {key.name!r}; it is shown this once. Send it as `Authorization: Bearer KEY`, or set "
        "OPENAI_API_KEY to it.")
