"""`diptych jobs`: the queue and what was made."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from diptych.cli.options import AsJson, DataDir, Server

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="List, show, cancel and watch jobs.")

Id = Annotated[str, typer.Argument(help="Id of the job; `diptych jobs list` shows them.")]


@app.command("list")
def list_jobs(
    state: Annotated[
        str | None,
        typer.Option(show_default=False, help="Only these: queued, running, succeeded, failed or cancelled."),
    ] = None,
    limit: Annotated[int, typer.Option("-n", "--limit", min=1, help="Newest so many.")] = 20,
    server: Server = None, data_dir: DataDir = None, as_json: AsJson = False,
) -> None:
    """The newest jobs."""
    from diptych.cli.connect import connected
    from diptych.cli.output import ago, print_json, print_table, say, table

    with connected(server, data_dir) as api:
        jobs = api.jobs(state, limit)
    if as_json:
        print_json(jobs)
        return
    if not jobs:
        say("There are no such jobs." if state else "There are no jobs yet.")
        return
    made = table("id", "state", "done", "pictures", "created", "prompt")
    for job in jobs:
        spec = job["spec"]
        made.add_row(job["id"], job["state"], f"{job['progress']:.0%}", f"{len(job['artifacts'])}/{spec['count']}",
                     ago(job["created_at"]), _short(spec["prompt"]))
    print_table(made)


@app.command()
def show(id: Id, server: Server = None, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Everything about one job."""
    from diptych.cli.connect import connected
    from diptych.cli.output import print_json

    with connected(server, data_dir) as api:
        job = api.job(id)
        base = api.url
    if as_json:
        print_json(job)
        return
    for name, value in _lines(job, base):
        print(f"{name:<12} {value}")


@app.command()
def cancel(id: Id, server: Server = None, data_dir: DataDir = None) -> None:
    """Cancel a job that waits or runs; its finished pictures stay."""
    from diptych.cli.connect import connected

    with connected(server, data_dir) as api:
        job = api.cancel(id)
    ended = job["state"] == "cancelled"
    print(f"job {job['id']} {'is cancelled' if ended else 'will end after its current step'}")


@app.command()
def watch(
    id: Id,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", show_default=False, help="Save the pictures here at the end."),
    ] = None,
    server: Server = None, data_dir: DataDir = None,
) -> None:
    """Follow a job to its end. Ctrl-C ends the watching, not the job."""
    from diptych.cli.connect import connected
    from diptych.cli.watch import follow, require_success, save

    with connected(server, data_dir) as api:
        job = require_success(follow(api, id))
        if output is not None:
            for file in save(api, job, output):
                print(file)
        else:
            print(f"job {job['id']} succeeded with {len(job['artifacts'])} pictures; save them with -o FOLDER")


def _lines(job: dict[str, Any], base: str) -> list[tuple[str, Any]]:
    spec = job["spec"]
    lines = [(name, job.get(name)) for name in ("id", "state", "error", "created_at", "started_at", "finished_at")]
    lines += [("attempts", f"{job['attempts']} of {job['max_attempts']}"), ("progress", f"{job['progress']:.0%}")]
    lines += [(name, spec[name]) for name in spec if name != "kind"]
    lines += [(name, f"{value:.4g}") for name, value in job.get("metrics", {}).items()]
    lines += [("picture", base + item["url"] if str(item["url"]).startswith("/") else item["url"])
              for item in job["artifacts"]]
    return [(name, value) for name, value in lines if value not in (None, "")]


def _short(text: str, length: int = 60) -> str:
    one = " ".join(text.split())
    return one if len(one) <= length else one[: length - 1] + "…"
