"""Follow a job to its end, with a progress bar, and save its pictures."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diptych.cli.errors import CliError
from diptych.cli.output import progress_bar, say

if TYPE_CHECKING:
    from diptych.cli.client import Api

FINAL = ("succeeded", "failed", "cancelled")
RECONNECTS = 5


def follow(api: Api, id: str) -> dict[str, Any]:
    """Show the job's events until it has ended; its record then. A broken stream is taken up again."""
    with progress_bar() as bar:
        task = bar.add_task("waiting", total=None, note="")
        for attempt in range(RECONNECTS):
            try:
                for event in api.events(id):
                    _show(bar, task, event)
            except CliError:
                if attempt == RECONNECTS - 1:
                    raise
            job = api.job(id)
            if job["state"] in FINAL:
                return job
    raise CliError(f"the events of job {id} ended before the job did; it goes on: diptych jobs watch {id}")


def _show(bar: Any, task: Any, event: dict[str, Any]) -> None:
    kind = event.get("type")
    if kind == "queued":
        place = event["position"]
        bar.update(task, description="next in the queue" if place == 0 else f"{place} before it in the queue",
                   note=_eta(event))
    elif kind == "started":
        bar.update(task, description="loading the model")
    elif kind == "progress":
        bar.update(task, description="denoising", completed=event["step"], total=event["steps"], note=_eta(event))


def _eta(event: dict[str, Any]) -> str:
    eta = event.get("eta_seconds")
    return "" if eta is None else f"{eta:.0f} s left"


def run_job(api: Api, spec: dict[str, Any], path: str = "/api/jobs") -> dict[str, Any]:
    """Submit, follow, and give the record of the succeeded job. Ctrl-C cancels it. `path`: who accepts such jobs.

    Raises:
        CliError: refused, failed, or cancelled by somebody else.
    """
    job = api.submit(spec, path)
    try:
        done = follow(api, job["id"])
    except KeyboardInterrupt:
        say(f"cancelling job {job['id']}")
        try:
            api.cancel(job["id"])
        except CliError as error:
            say(f"diptych: {error.message}")
        raise
    return require_success(done)


def require_success(job: dict[str, Any]) -> dict[str, Any]:
    if job["state"] != "succeeded":
        reason = f": {job['error']}" if job.get("error") else ""
        raise CliError(f"job {job['id']} {'failed' if job['state'] == 'failed' else 'was cancelled'}{reason}")
    return job


def save(api: Api, job: dict[str, Any], target: Path) -> list[Path]:
    """Download the job's pictures. `target` is a folder, or with a picture's suffix the one picture's file name.

    No file is written over: a number is added to the name. Paths in the order of the pictures.
    """
    artifacts = sorted(job["artifacts"], key=lambda item: int(item["index"]))
    single = target.suffix.lower() == ".png"
    if single and len(artifacts) != 1:
        raise CliError(f"{target} names one file, but there are {len(artifacts)} pictures; give a folder: -o out/",
                       status=2)
    return [_write(api.bytes(item["url"]), target if single else target / f"{_stem(job, item)}.png")
            for item in artifacts]


def _stem(job: dict[str, Any], artifact: dict[str, Any]) -> str:
    words = re.findall(r"\w+", str(job["spec"]["prompt"]).lower())
    return f"{'-'.join(words)[:50].rstrip('-') or 'picture'}-{artifact.get('seed')}"


def _write(content: bytes, wanted: Path) -> Path:
    try:
        wanted.parent.mkdir(parents=True, exist_ok=True)
        for number in range(1, 100_000):
            file = wanted if number == 1 else wanted.with_name(f"{wanted.stem}-{number}{wanted.suffix}")
            try:
                with file.open("xb") as handle:
                    handle.write(content)
                return file
            except FileExistsError:
                continue
    except OSError as error:
        raise CliError(f"cannot write {wanted}: {error.strerror or error}") from error
    raise CliError(f"no free name beside {wanted}")
