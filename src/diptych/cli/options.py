"""Options that several commands share, and the settings they lead to."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from diptych.cli.errors import USAGE, CliError

if TYPE_CHECKING:
    from diptych.settings import Settings

Server = Annotated[
    str | None,
    typer.Option(envvar="DIPTYCH_SERVER", metavar="URL", show_default=False,
                 help="Server to talk to. By default the one that runs on this data folder; one is started for the "
                      "duration of the command when none does."),
]
DataDir = Annotated[
    Path | None,
    typer.Option("--data-dir", envvar="DIPTYCH_DATA_DIR", metavar="FOLDER", file_okay=False, show_default=False,
                 help="Folder for jobs, pictures, models and logs. Default: ~/.local/share/diptych"),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Host = Annotated[
    str | None, typer.Option(metavar="ADDRESS", show_default=False, help="Address to listen on. Default: 127.0.0.1")]
Port = Annotated[
    int | None,
    typer.Option(min=0, max=65535, show_default=False, help="Port to listen on; 0 takes a free one. Default: 7860"),
]


def load_settings(**flags: Any) -> Settings:
    """Settings from file, environment and those flags that were given (not None).

    Raises:
        CliError: a value that cannot be used; the message names it.
    """
    from pydantic import ValidationError

    from diptych.settings import Settings

    try:
        return Settings(**{name: value for name, value in flags.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise CliError(f"setting {where}: {first['msg']}, seen {first['input']!r}", status=USAGE) from error
    except ValueError as error:  # a configuration file that is no TOML, or an environment variable that is no JSON
        raise CliError(f"the configuration cannot be read: {error}", status=USAGE) from error


def parse_size(text: str | None) -> tuple[int, int] | None:
    """`WxH` in pixels; one number means a square. Raises `typer.BadParameter`."""
    if text is None:
        return None
    parts = text.lower().replace("×", "x").split("x")
    if len(parts) not in (1, 2) or not all(part.strip().isascii() and part.strip().isdigit() for part in parts):
        raise typer.BadParameter(f"{text!r} is no size; write WIDTHxHEIGHT, e.g. 128x128", param_hint="--size")
    return int(parts[0]), int(parts[-1])
