"""Checks of the models in the library, the port, and a server that runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from diptych.cli.address import FILE, read_address
from diptych.cli.checks import Finding
from diptych.cli.errors import CliError
from diptych.cli.output import human_bytes

if TYPE_CHECKING:
    from diptych.settings import Settings


def models(settings: Settings) -> list[Finding]:
    """Whether each panel has a model, and whether those that are there are whole."""
    from diptych.cli.starters import ADVICE, STARTERS, cards_here, damage

    try:
        cards, unusable = cards_here(settings)
    except OSError as error:
        return [Finding("models", "problem", f"the library cannot be read: {error}", "see --data-dir")]
    findings = [Finding("models", "warn", text, "get it again, or remove it") for text in unusable]
    for panel, starter in STARTERS.items():
        mine = [card for card in cards if card.panel == panel]
        if not mine:
            findings.append(Finding(f"{panel} models", "problem", "there are none", ADVICE[starter]))
            continue
        broken = {card.id: text for card in mine if (text := damage(card))}
        if broken:
            findings.append(Finding(
                f"{panel} models", "problem", "; ".join(f"{id}: {text}" for id, text in broken.items()),
                "get them again: diptych models pull NAME, or remove them"))
        else:
            shown = ", ".join(f"{card.id} ({human_bytes(card.bytes)})" for card in mine)
            findings.append(Finding(f"{panel} models", "ok", shown))
    return findings


def server_health(settings: Settings, server: str | None) -> list[Finding]:
    """The server at `server`, or else the one of the data folder, or else whether its port is free."""
    from diptych.cli.serve import check_port

    address = read_address(settings.data_dir)
    url = server or (address.url if address else None)
    if url is not None:
        return [_health(url, None if server or address is None else address.key)]
    found = []
    if (settings.data_dir / FILE).exists():
        found.append(Finding("server", "warn", f"{settings.data_dir / FILE} is left over from a server that did not "
                             "end well", "nothing to do: the next server writes it anew; its log is in "
                             f"{settings.logs_dir}"))
    try:
        if settings.port:
            check_port(settings.host, settings.port)
    except CliError as error:
        return [*found, Finding("port", "warn", error.message)]
    return [*found, Finding("port", "ok", f"{settings.host}:{settings.port} is free; no server runs")]


def _health(url: str, key: str | None) -> Finding:
    from diptych.cli.client import Api

    try:
        with Api(url, key) as api:
            system = api.system()
    except CliError as error:
        return Finding("server", "problem", error.message, "see its log in the logs folder of its data folder")
    runners = [_runner(item) for item in system.get("runners", [])]
    failed = [item for item in system.get("runners", []) if item.get("state") == "failed"]
    seen = f"answers at {url}; " + (f"runners: {', '.join(runners)}" if runners else "no model is loaded")
    if failed:
        return Finding("server", "warn", seen, "a runner failed; its log is in the logs folder of the data folder")
    return Finding("server", "ok", seen)


def _runner(item: dict[str, Any]) -> str:
    return f"{item.get('model') or 'spare'} ({item.get('state')})"
