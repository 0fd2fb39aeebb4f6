"""The measurements run, and tell a table and one line of JSON; chaos finds nothing lost or doubled in a short storm."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCH = Path(__file__).resolve().parents[2] / "bench"
FIELDS = {
    "picture": {"engine_ratio", "http_ratio", "most_apart", "met"},
    "adapters": {"lora", "locon", "met"},
    "control": {"balanced", "control", "met"},
    "from_picture": {"img2img", "inpaint", "met"},
    "mixed": {"throughput_ratio", "requests", "met"},
    "crowd": {"throughput_ratio", "newcomer_steps", "met"},
    "chat": {"speed_ratio", "first_token_later_seconds", "met"},
    "shared_cpu": {"sum", "text_alone_all_cores", "met"},
    "memory": {"gateway_growth", "runners_growth", "requests", "met"},
    "start": {"ready_seconds", "switch_beyond_reading_seconds", "met"},
    "gpu": {"gpu", "measured", "throughput_ratios"},
}


def run(name: str, *flags: str) -> tuple[int, list[str], dict[str, Any]]:
    """Exit status, the lines of the table, and the JSON that comes last."""
    done = subprocess.run([sys.executable, str(BENCH / f"{name}.py"), "--quick", *flags], capture_output=True,
                          text=True, timeout=280, check=False)
    assert done.stdout, done.stderr[-3000:]
    *table, last = done.stdout.rstrip().splitlines()
    return done.returncode, table, json.loads(last)


@pytest.mark.parametrize("name", FIELDS)
def test_measurement_runs(name: str) -> None:
    status, table, result = run(name)
    assert status == 0
    assert result["bench"] == name
    assert result["quick"] is True
    assert FIELDS[name] <= result.keys()
    assert {"processor", "cores", "load", "python"} <= result["machine"].keys()
    assert name in table
    if name == "picture":
        assert result["most_apart"] <= 2  # the two make the same picture
    if name in ("adapters", "control", "from_picture"):
        assert max(result[what]["most_apart"] for what in FIELDS[name] - {"met"}) <= 2
    if name == "crowd":
        assert result["newcomer_steps"] <= 1


def test_chaos_loses_and_doubles_nothing() -> None:
    status, _, result = run("chaos")
    assert result["faults"] == []
    assert status == 0
    assert (result["lost"], result["doubled"], result["altered"], result["kills"]) == (0, 0, 0, 3)
    assert result["accepted"] >= 4
    assert result["chats"] > 0


def test_chaos_would_see_what_is_lost_and_doubled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its verdict over made-up records: a job that is gone, one that failed, a missing and a rewritten file."""
    monkeypatch.syspath_prepend(str(BENCH))
    from chaos_load import Ledger
    from chaos_verify import _doubled, _lost

    def job(id: str, state: str, *indices: int) -> dict[str, Any]:
        return {"id": id, "state": state, "error": "no reason", "attempts": 1, "spec": {"count": 2},
                "artifacts": [{"index": index} for index in indices]}

    ledger = Ledger()
    records = {one["id"]: one for one in (
        job("whole", "succeeded", 0, 1), job("failed", "failed", 0), job("short", "succeeded", 0, 1),
        job("twice", "succeeded", 0, 1, 1))}
    ledger.accepted = {id: {} for id in (*records, "gone")}
    for id in ("whole", "failed", "short", "twice"):
        (tmp_path / id).mkdir()
        for index in (0, 1):
            (tmp_path / id / f"{index:03d}.png").write_bytes(b"picture")
    for one in records.values():
        ledger.see(one, tmp_path)
    assert _doubled(ledger, records, tmp_path) == ["twice: picture 1 is there 2 times"]
    (tmp_path / "short" / "001.png").unlink()
    (tmp_path / "new").write_bytes(b"again")
    (tmp_path / "new").replace(tmp_path / "whole" / "000.png")
    ledger.see({**records["whole"], "state": "running"}, tmp_path)
    lost = _lost(ledger, records, tmp_path)
    assert [line.partition(":")[0] for line in lost] == ["gone", "failed", "short"]
    doubled = _doubled(ledger, records, tmp_path)
    assert any(line.startswith("whole is running after its end") for line in doubled)
    assert any("whole: picture 0 was written again" in line for line in doubled)
