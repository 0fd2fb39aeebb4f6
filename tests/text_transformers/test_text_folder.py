"""Folders of language models: what the library says of them, and what is refused before or while it is loaded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers")

import tiny_hf
import torch
from safetensors.torch import load_file, save_file

from diptych.core.errors import InvalidRequest, NotFound
from diptych.core.protocol import LoadRequest
from diptych.engines.transformers.engine import TransformersEngine
from diptych.library import Library
from diptych.library.gguf import BadFile
from diptych.library.text_folder import identify_text_folder
from diptych.runners.local import engine_of
from diptych.settings import Settings


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the tiny Llama in the library."""
    return Path(shutil.copytree(tiny_hf.llama(), tmp_path / "models" / "mine"))


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def load(folder: Path, **options: str | int) -> None:
    engine = TransformersEngine()
    try:
        engine.load(LoadRequest(card=identify_text_folder(folder), threads=1, options=options))
    finally:
        engine.close()


def test_the_library_finds_it(tmp_path: Path, folder: Path) -> None:
    tiny_hf.lora(folder, folder / "inside")
    tiny_hf.lora(folder, tmp_path / "models" / "beside")
    tiny_hf.lora(Path("another"), tmp_path / "models" / "foreign")
    library = Library(Settings(data_dir=tmp_path))
    card = library.get("mine")
    assert (card.panel, card.format, card.family, card.architecture) == (
        "text", "safetensors", "transformers", "llama")
    assert card.context == 4096 and card.embedding == 64 and card.tasks == ("chat", "embed")
    weights = load_file(folder / "model.safetensors")
    assert card.parameters == sum(tensor.numel() for tensor in weights.values())
    assert card.bytes == (folder / "model.safetensors").stat().st_size and len(card.fingerprint) == 10
    assert [file.id for file in card.adapters] == ["beside", "inside"]
    assert (card.tokenizer, card.dialect, card.tools, card.vision) == (None, None, False, False)
    assert engine_of(card) == "transformers"
    assert not [problem for problem in library.problems() if "models" in problem]


def test_a_template_with_tools(tmp_path: Path, folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("{% if tools %}<tool_call>{% endif %}")
    card = Library(Settings(data_dir=tmp_path)).get("mine")
    assert card.dialect == "hermes" and card.tools


def test_mistral_s_folders() -> None:
    card = identify_text_folder(tiny_hf.mistral())
    assert (card.tokenizer, card.dialect, card.tools, card.vision) == ("mistral-v7", "mistral", True, False)
    card = identify_text_folder(tiny_hf.mistral3())
    assert (card.architecture, card.vision, card.context) == ("mistral3", True, 4096)


@pytest.mark.parametrize(("name", "tasks"), [("tiny-bert-None", ("embed",)), ("tiny-reranker", ("rerank",))])
def test_encoders(name: str, tasks: tuple[str, ...]) -> None:
    assert identify_text_folder(tiny_hf.bert(name)).tasks == tasks


@pytest.mark.parametrize(("values", "words"), [
    ({"architectures": ["ViTForImageClassification"]}, "ViTForImageClassification"), ({"architectures": None}, "None"),
    ({"quantization_config": {"quant_method": "gptq"}}, "quantized"),
    ({"architectures": ["BertForSequenceClassification"], "id2label": {"0": "a", "1": "b"}}, "classifier"),
])
def test_other_models_are_named(tmp_path: Path, folder: Path, values: dict[str, Any], words: str) -> None:
    change(folder / "config.json", **values)
    with pytest.raises(NotFound, match="cannot be used") as found:
        Library(Settings(data_dir=tmp_path)).get("mine")
    assert words in found.value.message


def test_broken_folders_are_named(tmp_path: Path, folder: Path) -> None:
    library, weights = Library(Settings(data_dir=tmp_path)), folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:len(whole) // 2])
    assert "cut short" in "".join(library.problems())
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "model-00002.safetensors"}}))
    assert "model-00002.safetensors" in "".join(library.problems())
    (folder / "model.safetensors.index.json").unlink()
    weights.write_bytes(whole)
    (folder / "tokenizer.json").unlink()
    assert "no tokenizer.json" in "".join(library.problems())
    (folder / "config.json").write_text("{")
    assert "not valid JSON" in "".join(library.problems())


def test_pickled_weights_are_never_loaded(tmp_path: Path, folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    library = Library(Settings(data_dir=tmp_path))
    assert "diptych models convert" in "".join(library.problems())
    with pytest.raises(BadFile, match=r"no model\.safetensors"):
        identify_text_folder(folder)
    card = identify_text_folder(tiny_hf.llama()).model_copy(update={"path": str(folder)})
    with pytest.raises(InvalidRequest, match="cannot load"):
        TransformersEngine().load(LoadRequest(card=card, threads=1))


def test_code_in_the_folder_is_never_run(folder: Path, tmp_path: Path) -> None:
    trace = tmp_path / "ran"
    (folder / "evil.py").write_text(f"open({str(trace)!r}, 'w')\nclass Evil: pass\nclass EvilConfig: pass\n")
    change(folder / "config.json", model_type="evil", auto_map={
        "AutoConfig": "evil.EvilConfig", "AutoModelForCausalLM": "evil.Evil"})
    with pytest.raises(InvalidRequest, match="cannot load"):
        load(folder)
    assert not trace.exists()


def test_weights_that_are_missing_are_not_made_up(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights.pop("model.layers.1.mlp.up_proj.weight")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InvalidRequest, match="lacks 1 of the model's weights"):
        load(folder)


@pytest.mark.parametrize("options", [{"dtype": "int3"}, {"context": -1}, {"slots": 0}])
def test_wrong_options_are_named(folder: Path, options: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match=f"option {next(iter(options))}"):
        load(folder, **options)
