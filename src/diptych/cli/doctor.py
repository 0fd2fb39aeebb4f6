"""`diptych doctor`: what is wrong with this machine, and what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from diptych.cli.options import AsJson, DataDir, Port, Server

if TYPE_CHECKING:
    from diptych.cli.checks import Finding

MARKS = {"ok": "[green]ok[/green]     ", "warn": "[yellow]warn[/yellow]   ", "problem": "[red]problem[/red]"}


def doctor(server: Server = None, data_dir: DataDir = None, port: Port = None, as_json: AsJson = False) -> None:
    """Find what is wrong with this machine.

    Looks at Python, packages, disk, memory, cores, models, data folder, port and server. Each line is ok, warn or
    problem, with what to do. Exit status 1 when there is a problem.
    """
    from diptych.cli.checks import examine
    from diptych.cli.options import load_settings
    from diptych.cli.output import print_json

    findings = examine(load_settings(data_dir=data_dir, port=port), server)
    problems = sum(finding.level == "problem" for finding in findings)
    if as_json:
        print_json({"problems": problems, "findings": [finding.__dict__ for finding in findings]})
    else:
        _show(findings, problems)
    raise typer.Exit(1 if problems else 0)


def _show(findings: list[Finding], problems: int) -> None:
    from rich.markup import escape

    from diptych.cli.output import out

    console = out()
    for finding in findings:
        console.print(f"{MARKS[finding.level]} [bold]{finding.name}[/bold]: {escape(finding.message)}")
        if finding.advice:
            console.print(f"        → {escape(finding.advice)}")
    warnings = sum(finding.level == "warn" for finding in findings)
    console.print(f"\n{problems} problem{'s' * (problems != 1)}, {warnings} warning{'s' * (warnings != 1)}")
