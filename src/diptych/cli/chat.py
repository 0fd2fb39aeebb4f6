"""`diptych chat`: a conversation in the terminal, or one question."""

from __future__ import annotations

from typing import Annotated

import typer

from diptych.cli.options import DataDir, Server


def chat(
    question: Annotated[
        str | None,
        typer.Argument(show_default=False, help="Ask this one question and end. Without it: a conversation. Text piped "
                       "in follows the question."),
    ] = None,
    system: Annotated[
        str | None, typer.Option("-s", "--system", show_default=False, help="System message: how to answer.")] = None,
    model: Annotated[str, typer.Option(help="Text model, by its id.")] = "starter-text",
    temperature: Annotated[
        float | None, typer.Option(show_default=False, help="0 is always the likeliest word. Default: 0.7.")] = None,
    max_tokens: Annotated[
        int | None, typer.Option(show_default=False, help="Longest answer, in tokens.")] = None,
    seed: Annotated[
        int | None, typer.Option(show_default=False, help="The same seed gives the same answer again.")] = None,
    server: Server = None,
    data_dir: DataDir = None,
) -> None:
    """Chat with a language model.

    Answers come as they are written. Ctrl-C stops an answer; in a conversation /help lists the commands.
    """
    import sys

    from diptych.cli.connect import connected
    from diptych.cli.conversation import Conversation, ask_once, piped_text, talk
    from diptych.cli.errors import USAGE, CliError

    text = "\n\n".join(part for part in (question, piped_text(question is not None)) if part)
    one_shot = question is not None or not sys.stdin.isatty()
    if one_shot and not text.strip():
        raise CliError("there is no question: give one, or pipe one in", status=USAGE)
    sampling = {"temperature": temperature, "max_tokens": max_tokens, "seed": seed}
    with connected(server, data_dir) as api:
        conversation = Conversation(
            api, model, system, {name: value for name, value in sampling.items() if value is not None})
        if one_shot:
            ask_once(conversation, text)
        else:
            talk(conversation)
