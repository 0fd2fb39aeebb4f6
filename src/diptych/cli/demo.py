"""`diptych demo`: a new user's first contact. What `make run` and `make demo` call."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from diptych.cli.options import DataDir, Host, Port

if TYPE_CHECKING:
    from diptych.cli.client import Api
    from diptych.cli.connect import Background
    from diptych.settings import Settings

PROMPT = "a red apple on a blue background"
QUESTION = "What is the capital of France? Answer in one sentence."
SEED = 7


def demo(
    exit_after: Annotated[
        bool, typer.Option("--exit", help="End after the first picture and the first answer.")] = False,
    host: Host = None,
    port: Port = None,
    data_dir: DataDir = None,
) -> None:
    """Make a first picture and answer, then serve.

    Puts the starter models in place and starts the server. Picture and answer go through the server's own HTTP API,
    as any program's requests do. Serves until Ctrl-C.
    """
    from diptych.cli.address import read_address
    from diptych.cli.client import Api
    from diptych.cli.connect import Background
    from diptych.cli.options import load_settings
    from diptych.cli.serve import check_port

    settings = load_settings(host=host, port=port, data_dir=data_dir)
    running = read_address(settings.data_dir)
    if running is not None:
        print(f"A Diptych server already runs on {settings.data_dir}: using it, at {running.url}")
        with Api(running.url, running.key) as api:
            first_contact(api, settings)
        print(f"\nThe server keeps running at {running.url}")
        return
    if settings.port:
        check_port(settings.host, settings.port)
    require_models(settings)
    with Background(settings) as server, Api(server.url, server.key) as api:
        first_contact(api, settings)
        if not exit_after:
            serve_until_interrupted(server)


def require_models(settings: Settings) -> None:
    """Put the starter models in place. Raises `CliError` when one cannot be."""
    from diptych.cli.errors import CliError
    from diptych.cli.starters import ADVICE, cards_here, pull_here

    print("Starter models …", flush=True)
    pull_here(settings, "starter-text")
    if "starter" not in [card.id for card in cards_here(settings)[0]]:
        raise CliError(f"the starter image model is not there; {ADVICE['starter']}")


def first_contact(api: Api, settings: Settings) -> None:
    """A picture and an answer through the API, with the seconds each took; where to go from here."""
    start = time.perf_counter()
    file = first_picture(api, settings)
    print(f"\nPicture    {PROMPT}\n           {file}\n           {time.perf_counter() - start:.1f} s", flush=True)
    start = time.perf_counter()
    answer = first_answer(api)
    print(f"\nChat       {QUESTION}\n           {answer}\n           {time.perf_counter() - start:.1f} s", flush=True)
    print(f"\nServer     {api.url}  (for OpenAI's clients: {api.url}/v1, pages of the API: {api.url}/docs)", flush=True)


def first_picture(api: Api, settings: Settings) -> Path:
    """Make one picture as a job; the file's absolute path."""
    from diptych.cli.watch import run_job, save

    job = run_job(api, {"prompt": PROMPT, "seed": SEED})
    return save(api, job, settings.data_dir / "first")[0].resolve()


def first_answer(api: Api) -> str:
    """Ask one question, not streamed; the answer's text."""
    from diptych.cli.client import LONG
    from diptych.cli.errors import CliError

    body = {"model": "starter-text", "messages": [{"role": "user", "content": QUESTION}],
            "temperature": 0, "max_tokens": 64}
    answer = api.request("POST", "/v1/chat/completions", body=body, timeout=LONG)
    text = str(answer["choices"][0]["message"]["content"]).strip()
    if not text:
        raise CliError("the model gave an empty answer; see `diptych doctor`")
    return " ".join(text.split())


def serve_until_interrupted(server: Background) -> None:
    """Wait until Ctrl-C or until the server ends by itself, which is an error."""
    from diptych.cli.connect import last_line
    from diptych.cli.errors import CliError

    assert server.process is not None
    print(f"Log        {server.log}\n\nServing. Try in another terminal:  diptych chat   or   "
          'diptych image "a green cat"\nCtrl-C ends the server.', flush=True)
    try:
        server.process.wait()
    except KeyboardInterrupt:
        print("\nEnding the server …", flush=True)
        return
    raise CliError(f"the server ended: {last_line(server.log)} (whole output: {server.log})")
