"""`diptych collection` against the real server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from grounded_server import Server
from pdf_file import pdf


def command(server: Server, *words: str, status: int = 0) -> str:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("DIPTYCH_")}
    done = subprocess.run(
        [sys.executable, "-m", "diptych", "collection", *words], capture_output=True, text=True, timeout=120,
        env={**clean, "DIPTYCH_SERVER": server.url, "DIPTYCH_DATA_DIR": str(server.data)})
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout if status == 0 else done.stderr


def test_collection_commands(server: Server, tmp_path: Path) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "leave.md").write_text("# Leave\n\nEverybody has thirty days of leave.")
    (folder / "report.pdf").write_bytes(pdf("Turnover rose to 42 million."))
    (folder / "skipped.bin").write_bytes(b"\0\1")
    command(server, "create", "office", "--description", "the office")
    added = json.loads(command(server, "add", "office", str(folder), "--json"))["documents"]
    assert [one["title"] for one in added] == ["leave.md", "report.pdf"]
    assert "office" in command(server, "list") and "leave.md" in command(server, "list", "office")
    assert "thirty days" in command(server, "search", "office", "how much leave", "--top", "1")
    assert json.loads(command(server, "search", "office", "turnover", "--json"))["results"][0]["id"] == added[1]["id"]
    command(server, "rm", "office", added[0]["id"])
    assert "is not read" in command(server, "add", "office", str(folder / "skipped.bin"), status=1)
    assert "does not exist" in command(server, "add", "office", str(folder / "none.md"), status=2)
    command(server, "rm", "office", "--yes")
    assert "no collection" in command(server, "list", "office", status=1)
