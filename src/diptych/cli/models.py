"""`diptych models`: what is there, what is loaded, and getting more."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from diptych.cli.models_merge import extract, merge
from diptych.cli.options import AsJson, DataDir, Server

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="List, pull, load and unload models.")

app.command("merge")(merge)
app.command("extract")(extract)
Model = Annotated[str, typer.Argument(help="Id of the model; `diptych models list` shows them.")]


@app.command("list")
def list_models(
    server: Server = None, data_dir: DataDir = None, as_json: AsJson = False,
    parts: Annotated[bool, typer.Option(
        "--parts", help="What is used together with image models: LoRA, embeddings, VAEs, ControlNets …")] = False,
) -> None:
    """All models in the library."""
    if parts:
        _list_parts(server, data_dir, as_json)
        return
    from diptych.cli.connect import connected
    from diptych.cli.output import human_bytes, print_json, print_table, say, table

    with connected(server, data_dir) as api:
        models, problems = api.models()
    if as_json:
        print_json(models)
        return
    for problem in problems:
        say(f"cannot be used: {problem}")
    if not models:
        say("There are no models yet; get the small text model with: diptych models pull starter-text")
        return
    made = table("id", "panel", "size", "state", "licence", "name")
    for model in models:
        made.add_row(model["id"], model["panel"], human_bytes(model["bytes"]), state_of(model),
                     model.get("license") or "", model.get("name") or "")
    print_table(made)


def _list_parts(server: str | None, data_dir: Path | None, as_json: bool) -> None:
    from diptych.cli.connect import connected
    from diptych.cli.output import human_bytes, print_json, print_table, say, table

    with connected(server, data_dir) as api:
        found = api.parts()
    if as_json:
        print_json(found)
        return
    if not found:
        say("There are no adapters, embeddings, VAEs, ControlNets or upscalers in the model folders.")
        return
    made = table("id", "kind", "for", "size", "rank", "licence", "words")
    for part in found:
        made.add_row(part["id"], part["kind"], part["family"] or "", human_bytes(part["bytes"]),
                     str(part["rank"] or ""), part["license"] or "", ", ".join(part["triggers"][:4]))
    print_table(made)


@app.command()
def info(model: Model, server: Server = None, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Everything about one model."""
    from diptych.cli.connect import connected
    from diptych.cli.errors import CliError
    from diptych.cli.output import human_bytes, print_json

    with connected(server, data_dir) as api:
        models, _ = api.models()
    found = next((item for item in models if item["id"] == model), None)
    if found is None:
        known = ", ".join(item["id"] for item in models) or "none"
        raise CliError(f"model {model!r} is not in the library; there are: {known}")
    if as_json:
        print_json(found)
        return
    for name, value in {**found, "bytes": human_bytes(found["bytes"])}.items():
        if value not in (None, ""):
            print(f"{name:<12} {value}")


@app.command()
def pull(
    model: Annotated[str, typer.Argument(help="What to get, e.g. starter-text.")],
    server: Server = None, data_dir: DataDir = None,
) -> None:
    """Get a model and check that it is whole. One that is there already is only checked."""
    from diptych.cli.client import Api
    from diptych.cli.options import load_settings
    from diptych.cli.output import say
    from diptych.cli.starters import pull_here

    if server:
        with Api(server) as api:
            api.pull(model, say)
        print(f"{model} is in the library of {server}")
        return
    print(f"{model} is at {pull_here(load_settings(data_dir=data_dir), model)}")


@app.command()
def load(
    model: Model, server: Server = None, data_dir: DataDir = None,
    pin: Annotated[bool | None, typer.Option("--pin/--unpin", help=(
        "Whether it stays until it is unloaded, whatever else wants its memory."), show_default=False)] = None,
) -> None:
    """Load a model now, so that its first request does not wait."""
    _with_running_server(model, server, data_dir, "load", pin)
    print(f"{model} is loaded" + (" and pinned" if pin else ""))


@app.command()
def unload(model: Model, server: Server = None, data_dir: DataDir = None) -> None:
    """Unload a model: its process ends and its memory is free."""
    _with_running_server(model, server, data_dir, "unload")
    print(f"{model} is not loaded any more")


@app.command()
def convert(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="A .ckpt, .pt, .pth or .bin file, or a model's folder.")],
    force: Annotated[bool, typer.Option("--force", help="Write a file anew that is there already.")] = False,
) -> None:
    """Make safetensors of pickled weights, beside them. What holds more than weights is refused."""
    import subprocess
    import sys

    # A process of its own: the commands never import torch.
    command = [sys.executable, "-m", "diptych.engines.convert", str(path), *(["--force"] if force else [])]
    raise typer.Exit(subprocess.run(command, stdin=subprocess.DEVNULL).returncode)


def _with_running_server(
    model: str, server: str | None, data_dir: Any, action: str, pin: bool | None = None,
) -> None:
    """Loading makes sense only in a server that stays: none is started for it."""
    from diptych.cli.address import read_address
    from diptych.cli.client import Api
    from diptych.cli.errors import CliError
    from diptych.cli.options import load_settings

    settings = load_settings(data_dir=data_dir)
    address = read_address(settings.data_dir)
    url = server or (address.url if address else None)
    if url is None:
        raise CliError(f"no server runs on {settings.data_dir}, so there is nothing to {action} a model in; "
                       "start one with: diptych serve")
    with Api(url, None if server or address is None else address.key) as api:
        api.load(model, pin) if action == "load" else api.unload(model)


def state_of(model: dict[str, Any]) -> str:
    """Word for the state of a model in the server's list; empty when it is not loaded."""
    return "loaded" if model["loaded"] else str(model["state"] or "")
