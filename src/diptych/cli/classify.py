"""`diptych classify`: which label fits a text, and how surely."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from diptych.cli.options import AsJson, DataDir, Server

EPILOG = """\b
Examples:
  diptych classify "I love it!" -l good -l bad
  diptych classify --file mails.txt -l invoice -l "spam=unwanted advertising" --json
  diptych classify "Fry the onions." -l cooking -l sports --multi"""


def classify(
    texts: Annotated[list[str] | None, typer.Argument(
        show_default=False, help="Texts. Without any: the lines of --file, or of standard input.")] = None,
    labels: Annotated[list[str] | None, typer.Option(
        "-l", "--label", metavar="LABEL", show_default=False, help="A label, or LABEL=what it means. Two or more.",
    )] = None,
    classifier: Annotated[str | None, typer.Option(
        metavar="NAME", show_default=False, help="A calibrated classifier of the server, instead of labels.")] = None,
    examples: Annotated[list[str] | None, typer.Option(
        "--example", metavar="LABEL=TEXT", show_default=False, help="A text whose label is known.")] = None,
    multi: Annotated[bool, typer.Option("--multi", help="Any number of labels may fit.")] = False,
    instructions: Annotated[str | None, typer.Option(show_default=False, help="What to look at.")] = None,
    file: Annotated[str | None, typer.Option(show_default=False, help="File with a text on each line.")] = None,
    model: Annotated[str, typer.Option(help="Text model, by its id.")] = "starter-text",
    as_json: AsJson = False,
    server: Server = None,
    data_dir: DataDir = None,
) -> None:
    """Tell which label fits a text, with probabilities.

    They come from the likelihoods that the model gives the labels; calibrate them with /api/classifiers.
    """
    from diptych.cli.client import LONG
    from diptych.cli.connect import connected
    from diptych.cli.inputs import texts_of
    from diptych.cli.output import print_json

    body = _body(labels, classifier, examples, multi, instructions, model)
    given = texts_of(texts, file)
    with connected(server, data_dir) as api:
        answer = api.request("POST", "/v1/classifications", body={**body, "input": given}, timeout=LONG)
    if as_json:
        print_json({"model": answer["model"], "results": [
            {"text": text, **result["label"]} for text, result in zip(given, answer["results"], strict=True)]})
    else:
        _show(given, [result["label"] for result in answer["results"]])


def _body(
    labels: list[str] | None, classifier: str | None, examples: list[str] | None, multi: bool,
    instructions: str | None, model: str,
) -> dict[str, Any]:
    from diptych.cli.errors import USAGE, CliError

    if classifier is not None:
        if labels or examples or multi or instructions:
            raise CliError("a classifier has its own labels, examples and instructions: leave them out", status=USAGE)
        return {"classifier": classifier}
    if not labels:
        raise CliError("there is no label: give two or more with -l, or a --classifier", status=USAGE)
    named: list[Any] = []
    for label in labels:
        name, _, description = label.partition("=")
        named.append({"name": name.strip(), "description": description.strip()} if description else name.strip())
    known = []
    for example in examples or ():
        name, separator, text = example.partition("=")
        if not separator or not text.strip():
            raise CliError(f"--example: {example!r} is not LABEL=TEXT", status=USAGE)
        known.append({"label": name.strip(), "text": text.strip()})
    return {"model": model, "labels": named, "multi_label": multi, **({"examples": known} if known else {}),
            **({"instructions": instructions} if instructions else {})}


def _show(texts: list[str], results: list[dict[str, Any]]) -> None:
    """One text: all its labels; several: a line for each."""
    from rich.text import Text

    from diptych.cli.output import print_table, table

    if len(texts) == 1:
        made = table("label", "probability", "")
        chosen = results[0].get("labels", [results[0].get("label")])
        for name, score in sorted(results[0]["scores"].items(), key=lambda one: -one[1]):
            made.add_row(Text(name, style="bold" if name in chosen else ""), f"{score:.1%}", "█" * round(score * 30))
    else:
        made = table("label", "probability", "text")
        for text, result in zip(texts, results, strict=True):
            names = result.get("labels", [result.get("label")])
            made.add_row(Text(", ".join(names) or "none"), ", ".join(f"{result['scores'][name]:.1%}" for name in names),
                         Text(text if len(text) <= 100 else text[:99] + "…"))
    print_table(made)
