"""Headers of model files: right on whole ones, clear on broken ones, and never a crash or a large allocation."""

from __future__ import annotations

import json
import random
import struct
import time
import tracemalloc
from pathlib import Path

import pytest
from model_files import LLAMA, gguf, safetensors

from diptych.library.gguf import MAGIC, BadFile, read_gguf
from diptych.library.safetensors_header import read_safetensors


def test_gguf_of_the_starter(starter_text: Path) -> None:
    header = read_gguf(starter_text)
    assert (header.architecture, header.context_length, header.version) == ("llama", 8192, 3)
    assert header.parameters == 134_515_008
    assert header.text("general.license") == "apache-2.0"
    assert header.number("llama.vocab_size") == 49152
    assert header.metadata["general.languages"] == ["en"]
    assert "im_start" in (header.text("tokenizer.chat_template") or "")


def test_gguf_agrees_with_llama_cpp_about_size(starter_text: Path, tmp_path: Path) -> None:
    """The last tensor ends at the end of the file: one byte less is a cut file, one more is not."""
    whole = starter_text.read_bytes()
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(whole[:-1])
    with pytest.raises(BadFile, match="cut short"):
        read_gguf(cut)
    cut.write_bytes(whole + b"\0")
    assert read_gguf(cut).parameters == 134_515_008


def test_gguf_written_here(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    path.write_bytes(gguf(LLAMA | {"a.float": 0.5, "a.bool": True}))
    header = read_gguf(path)
    assert header.metadata["tokenizer.ggml.tokens"] == []  # long arrays are skipped
    assert header.metadata["tokenizer.ggml.short"] == ["a", "b"]
    assert (header.metadata["a.float"], header.metadata["a.bool"]) == (0.5, True)
    assert header.text("tokenizer.chat_template") == "{{ x }}"
    assert (header.parameters, header.tensors, header.context_length) == (128, 1, 2048)


def test_gguf_with_texts_longer_than_a_chunk(tmp_path: Path) -> None:
    long = ["x" * 700_000, *(["y"] * 100), "z" * 1_500_000]
    path = tmp_path / "a.gguf"
    path.write_bytes(gguf({"words": long, **LLAMA}))
    assert read_gguf(path).text("general.name") == "Tiny"


def test_every_cut_of_a_gguf_is_noticed(tmp_path: Path) -> None:
    whole = gguf(LLAMA)
    path = tmp_path / "a.gguf"
    for length in [*range(200), *range(200, len(whole), 61), len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(BadFile):
            read_gguf(path)


def test_damaged_ggufs_fail_fast_and_small(tmp_path: Path) -> None:
    whole, random_bytes = gguf(LLAMA), random.Random(5)
    path = tmp_path / "a.gguf"
    tracemalloc.start()
    began = time.monotonic()
    for _ in range(300):
        damaged = bytearray(whole)
        for _ in range(random_bytes.randrange(1, 6)):
            damaged[random_bytes.randrange(4, 600)] = random_bytes.choice((0, 1, 127, 255, random_bytes.randrange(256)))
        path.write_bytes(damaged)
        try:
            read_gguf(path)
        except BadFile as error:
            assert len(error.message) < 300
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 32 * 1024 * 1024
    assert time.monotonic() - began < 30


@pytest.mark.parametrize(("raw", "words"), [
    (b"", "cut short"), (b"PK\x03\x04" + b"\0" * 60, "not a GGUF"), (MAGIC + struct.pack("<I", 1) + b"\0" * 60, "1"),
    (MAGIC + struct.pack(">I", 3) + b"\0" * 60, "little-endian"),
    (MAGIC + struct.pack("<IQQ", 3, 2**63, 0), "tensors"), (MAGIC + struct.pack("<IQQ", 3, 0, 2**40), "metadata keys"),
    (MAGIC + struct.pack("<IQQQ", 3, 0, 1, 2**62), "bytes in one text"),
    (MAGIC + struct.pack("<IQQQ", 3, 0, 1, 1) + b"k" + struct.pack("<IIQ", 9, 8, 2**60), "cut short"),
    (MAGIC + struct.pack("<IQQQ", 3, 0, 1, 1) + b"k" + struct.pack("<IIQ", 9, 4, 2**62), "cut short"),
    (MAGIC + struct.pack("<IQQQ", 3, 0, 1, 1) + b"k" + struct.pack("<IIQ", 9, 9, 2**62), "unknown type"),
    (gguf({"general.alignment": 0}), "alignment"), (gguf({"general.alignment": "x"}), "alignment"),
])
def test_hostile_ggufs(tmp_path: Path, raw: bytes, words: str) -> None:
    path = tmp_path / "a.gguf"
    path.write_bytes(raw)
    with pytest.raises(BadFile, match=words):
        read_gguf(path)


def test_safetensors_agrees_with_the_library(tmp_path: Path) -> None:
    import numpy
    from safetensors.numpy import save_file

    path = tmp_path / "a.safetensors"
    arrays = {"a": numpy.zeros((3, 5), numpy.float16), "b": numpy.zeros((), numpy.int64),
              "c": numpy.zeros((0, 4), numpy.float32)}
    save_file(arrays, path, metadata={"format": "pt"})
    header = read_safetensors(path)
    assert header.shapes == {name: array.shape for name, array in arrays.items()}
    assert (header.parameters, header.metadata) == (16, {"format": "pt"})


def entry(**changes: object) -> bytes:
    fields = {"dtype": "F16", "shape": [2, 2], "data_offsets": [0, 8], **changes}
    raw = json.dumps({"a": fields}).encode()
    return struct.pack("<Q", len(raw)) + raw + b"\0" * 8


@pytest.mark.parametrize("raw", [
    b"", b"abc", struct.pack("<Q", 2**60) + b"{}", struct.pack("<Q", 2) + b"[]", struct.pack("<Q", 2) + b"{x",
    struct.pack("<Q", 40_000) + b"[" * 40_000, entry(shape=[2, 3]), entry(shape=[-2, -2]), entry(shape="ab"),
    entry(data_offsets=[8, 0]), entry(data_offsets=[0]), entry(dtype=["F16"]), entry(data_offsets=[0.0, 8.0]),
    entry()[:-1], entry() + b"\0", struct.pack("<Q", 9) + b'{"a": []}',
])
def test_broken_safetensors(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(raw)
    with pytest.raises(BadFile):
        read_safetensors(path)


def test_every_cut_of_a_safetensors_is_noticed(tmp_path: Path) -> None:
    whole = safetensors({"a": (4, 4), "b": (3,)})
    path = tmp_path / "a.safetensors"
    path.write_bytes(whole)
    assert read_safetensors(path).parameters == 19
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(BadFile):
            read_safetensors(path)
