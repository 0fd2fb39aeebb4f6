"""Names from requests stay inside their folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.core.errors import InvalidRequest
from diptych.core.paths import inside

ATTACKS = [
    "", ".", "..", "../x", "a/../../x", "a/..", "a/./b", "/etc/passwd", "//server/share", "a//b", "a/", "\\x", "..\\x",
    "a\\..\\..\\x", "C:\\x", "C:x", "c:/x", "\\\\server\\share", "\\\\?\\C:\\x", "file.png:stream", "file.png::$DATA",
    "a\0b", "a\nb", "a\x7fb", "x\x1b[2J", "CON", "con.png", "nul", "NUL.txt", "a/aux", "COM1", "com1.safetensors",
    "LPT9.x", "COM¹", "CONIN$", "prn ", "a.", "a ", " a", "a/b. ", "a*", "a?", "a|b", "a<b", 'a"b', "x" * 256,
    "/".join(["d" * 200] * 25), "\ud800", "link/secret", "loop/x", "chain/secret", "link", "é" * 128,
]
GOOD = ["a", "a.png", "a/b/c.png", "..a", "a..b", "...b", "~x", "ünïcode/日本.png", "a b.png", "x" * 255, "own/file",
        ".hidden", "console", "com", "com10", "null", "-rf", "%2e%2e%2fx", "&#46;"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with links out of it, in a circle, and to a place inside."""
    root = tmp_path / "root"
    (root / "real").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_text("secret")
    (tmp_path / "root-2").mkdir()
    (root / "link").symlink_to(tmp_path / "outside")
    (root / "chain").symlink_to(root / "link")
    (root / "sibling").symlink_to(tmp_path / "root-2")
    (root / "loop").symlink_to(root / "loop")
    (root / "own").symlink_to(root / "real")
    return root


@pytest.mark.parametrize("name", ATTACKS, ids=range(len(ATTACKS)))
def test_attacks(folder: Path, name: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        inside(folder, name, param="file")
    assert refused.value.param == "file"
    assert str(folder) not in refused.value.message
    assert refused.value.message.isascii()


@pytest.mark.parametrize("name", GOOD)
def test_good_names(folder: Path, name: str) -> None:
    found = inside(folder, name, param="file")
    assert found.is_relative_to(folder.resolve())
    assert found == (folder / name).resolve()


def test_a_sibling_whose_name_begins_alike(folder: Path) -> None:
    with pytest.raises(InvalidRequest, match="leads out"):
        inside(folder, "sibling/x", param="file")


def test_the_folder_itself_may_be_a_link(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "alias").symlink_to(folder)
    assert inside(tmp_path / "alias", "real/x", param="file") == folder / "real" / "x"


@settings(max_examples=400, deadline=None)
@given(st.text(max_size=40) | st.lists(
    st.sampled_from(["..", ".", "", "a", "link", "own", "loop", "~", "C:", "CON", "\\", "\0", " "]),
    max_size=8).map("/".join))
def test_nothing_gets_out(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    root = tmp_path_factory.getbasetemp() / "confined"
    if not root.exists():
        (root / "real").mkdir(parents=True)
        (root / "link").symlink_to(os.sep)
        (root / "own").symlink_to(root / "real")
        (root / "loop").symlink_to(root / "loop")
    try:
        found = inside(root, name, param="file")
    except InvalidRequest:
        return
    assert Path(os.path.realpath(found)).is_relative_to(root.resolve())
    assert found != root.resolve()
