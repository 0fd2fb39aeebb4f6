"""`diptych chat`: a conversation in the terminal, or one question."""

from __future__ import annotations

from typing import Annotated

import typer

from diptych.cli.options import AsJson, DataDir, Server

EPILOG = """\b
Examples:
  diptych chat
  diptych chat "Why is the sky blue?"
  cat notes.md | diptych chat "Summarise this."
  diptych chat "Invent a person." --json-schema person.json
  diptych chat "What is on it?" --image cat.png --model MODEL
  diptych chat "What does it cost?" --doc offer.txt
  diptych chat "How is the weather in Paris?" --tool weather"""


def chat(
    question: Annotated[
        str | None,
        typer.Argument(show_default=False, help="Ask this one question and end. Without it: a conversation. Text piped "
                       "in follows the question."),
    ] = None,
    system: Annotated[
        str | None, typer.Option("-s", "--system", show_default=False, help="System message: how to answer.")] = None,
    model: Annotated[str, typer.Option(help="Text model, by its id.")] = "starter-text",
    json_schema: Annotated[
        str | None, typer.Option("--json-schema", metavar="FILE", show_default=False, help="File with a JSON schema, "
                                 "or the schema itself: the answer is JSON that it allows.")] = None,
    tools: Annotated[
        list[str] | None, typer.Option("--tool", metavar="NAME|FILE|URL", show_default=False, help="A tool of the "
                                       "server, which runs it; or a definition (file, URL or JSON), whose calls are "
                                       "printed.")] = None,
    tool_choice: Annotated[
        str | None, typer.Option("--tool-choice", metavar="CHOICE", show_default=False, help="auto, required, none, or "
                                 "the name of the tool that is to be called.")] = None,
    images: Annotated[
        list[str] | None, typer.Option("--image", metavar="FILE", show_default=False, help="A picture to ask about.")
    ] = None,
    docs: Annotated[
        list[str] | None, typer.Option("--doc", metavar="FILE", show_default=False, help="A text to answer from; what "
                                       "the answer rests on is shown below it.")] = None,
    temperature: Annotated[
        float | None, typer.Option(show_default=False, help="0 is always the likeliest word. Default: 0.7.")] = None,
    max_tokens: Annotated[
        int | None, typer.Option(show_default=False, help="Longest answer, in tokens.")] = None,
    seed: Annotated[
        int | None, typer.Option(show_default=False, help="The same seed gives the same answer again.")] = None,
    as_json: AsJson = False,
    server: Server = None,
    data_dir: DataDir = None,
) -> None:
    """Chat with a language model.

    Answers come as they are written. Ctrl-C stops an answer; in a conversation /help lists the commands.
    """
    import sys

    from diptych.cli.asking import Question, run_tools, whole
    from diptych.cli.connect import connected
    from diptych.cli.conversation import Conversation, ask_once, piped_text, talk
    from diptych.cli.errors import USAGE, CliError

    asked = Question.of(json_schema, tools, images, docs, tool_choice)
    text = "\n\n".join(part for part in (question, piped_text(question is not None)) if part)
    one_shot = question is not None or not sys.stdin.isatty()
    if one_shot and not text.strip():
        raise CliError("there is no question: give one, or pipe one in", status=USAGE)
    if not one_shot and (as_json or asked.names):
        raise CliError("--json and the server's own tools are for one question: give one", status=USAGE)
    given = {"temperature": temperature, "max_tokens": max_tokens, "seed": seed}
    sampling = {name: value for name, value in given.items() if value is not None}
    with connected(server, data_dir) as api:
        if asked.names:
            run_tools(api, asked, model, system, text, sampling, as_json)
            return
        conversation = Conversation(api, model, system, {**sampling, **asked.fields}, pictures=asked.pictures)
        if one_shot and as_json:
            whole(conversation, text)
        elif one_shot:
            ask_once(conversation, text)
        else:
            talk(conversation)
