"""A frame of `diptych top`, drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from diptych.cli.output import ago, human_bytes

if TYPE_CHECKING:
    from rich.console import Group, RenderableType
    from rich.table import Table

WIDE_BAR = 20


def waiting(where: str, reason: str) -> RenderableType:
    from rich.panel import Panel
    from rich.text import Text

    return Panel(Text(f"waiting for the server at {where}\n{reason}\n\nq quits"), title="diptych top",
                 title_align="left")


def view(frame: dict[str, Any], height: int | None = None) -> Group:
    """The frame for a terminal of so many lines; the longest tables are cut to fit (None: nothing is cut)."""
    from rich.console import Group

    # The first line, five tables of three lines beside their rows, the rows that are always there.
    fixed = 1 + 5 * 3 + 5 + len(frame["devices"]) + max(1, len(frame["runners"])) + len(frame["means"])
    room = None if height is None else max(4, height - fixed)
    jobs = None if room is None else max(2, room * 2 // 3)
    recent = None if room is None else max(1, room - (jobs or 0))
    tables = (_devices(frame), _runners(frame), _jobs(frame, jobs), _speeds(frame), _recent(frame, recent))
    return Group(_head(frame), *(part for made in tables for part in ("", made)))


def _head(frame: dict[str, Any]) -> RenderableType:
    from rich.text import Text

    counts = ", ".join(f"{count} {state}" for state, count in frame["jobs"].items())
    return Text(f"Diptych {frame['version']} at {frame['server']}, up {_span(frame['uptime_seconds'])}; "
                f"jobs: {counts}")


def _devices(frame: dict[str, Any]) -> Table:
    made = _table("device", "cores", "threads", "busy", "models may use", "leased", "measured", "")
    for one in frame["devices"]:
        budget = one.get("memory_for_models") or 0
        leased = one.get("memory_leased") or 0
        share = min(1.0, leased / budget) if budget else 0.0
        filled = round(share * WIDE_BAR)
        made.add_row(one["name"], str(one.get("cores", "")), str(one.get("threads", "")),
                     _percent(one.get("busy_percent")), human_bytes(budget), human_bytes(leased),
                     human_bytes(one.get("memory_measured")), "█" * filled + "·" * (WIDE_BAR - filled))
    return made


def _runners(frame: dict[str, Any]) -> Table:
    made = _table("runner", "model", "state", "running", "memory", "peak", "threads", "idle", "pid")
    for one in frame["runners"]:
        state = one["state"] + (", pinned" if one.get("pinned") else "")
        made.add_row(str(one.get("id") or ""), _plain(one["model"]), state, str(one["running"]),
                     human_bytes(one["bytes_resident"]), human_bytes(one["bytes_peak"]),
                     str(one.get("threads") or ""), _span(one.get("idle_seconds")), str(one.get("pid") or ""))
    if not frame["runners"]:
        made.add_row("no model is loaded")
    return made


def _jobs(frame: dict[str, Any], most: int | None) -> Table:
    made = _table("#", "job", "caller", "class", "model", "done", "ETA")
    rows = [("runs", one["id"], one["caller"], one["priority"], one["spec"]["model"], f"{one['progress']:.0%}",
             _span(one["eta_seconds"])) for one in frame["running"]]
    rows += [(str(one["position"]), one["id"], one["caller"], one["priority"], one["model"], "",
              _span(one["eta_seconds"])) for one in frame["queue"]]
    shown = rows if most is None else rows[:most]
    for row in shown:
        made.add_row(*map(_plain, row))
    waiting_jobs = frame["jobs"].get("queued", 0) + frame["jobs"].get("running", 0)
    if waiting_jobs > len(shown):
        made.add_row("", f"… and {waiting_jobs - len(shown)} more")
    if not rows:
        made.add_row("", "the queue is empty")
    return made


def _speeds(frame: dict[str, Any]) -> Table:
    now, answers = frame["speeds"], frame["answers_running"]
    made = _table("speed", "now", "mean", "of")
    made.add_row("steps/s", _number(now["steps_per_second"]), *_means(frame, "steps_per_second", "jobs"))
    made.add_row("tokens/s", _number(now["tokens_per_second"]), *_means(frame, "tokens_per_second", "answers"))
    made.add_row("pictures/s", _number(now["pictures_per_second"]))
    made.add_row("answers", "" if answers is None else f"{answers} running")
    return made


def _means(frame: dict[str, Any], unit: str, word: str) -> tuple[str, str]:
    rows = [one for one in frame["means"] if one["unit"] == unit]
    return ("\n".join(_number(one["mean"]) for one in rows),
            "\n".join(f"{_plain(one['model'])}, {one['count']} {word}" for one in rows))


def _recent(frame: dict[str, Any], most: int | None) -> Table:
    made = _table("recent job", "state", "model", "pictures", "took", "ended")
    for one in frame["recent"][:most]:
        seconds = one.get("metrics", {}).get("seconds")
        made.add_row(one["id"], one["state"], _plain(one["spec"]["model"]),
                     f"{len(one['artifacts'])}/{one['spec']['count']}", _span(seconds), ago(one["finished_at"]))
    if not frame["recent"]:
        made.add_row("none yet")
    return made


def _table(*columns: str) -> Table:
    from diptych.cli.output import table

    made = table(*columns)
    made.show_edge = False
    return made


def _plain(text: str) -> str:
    """Without what a terminal or rich would take for a command: names come from whoever asked."""
    return "".join(part if part.isprintable() else "?" for part in str(text)).replace("[", "\\[")


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.0f} %"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def _span(seconds: float | None) -> str:
    """`3725` → `1h02m`."""
    if seconds is None:
        return ""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f}s" if seconds < 10 else f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
