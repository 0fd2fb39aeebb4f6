"""Adapters, vectors, relevance, likelihoods, gaps, prefixes and sampling of the transformers engine."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("transformers")

import tiny_hf
import torch
import transformers
from text_runs import CONTEXT, Text

from diptych.core.chat import Message
from diptych.core.errors import InvalidRequest
from diptych.core.events import Finished, TokenDelta
from diptych.core.protocol import LoadRequest
from diptych.core.specs import Adapter, CompletionSpec, EmbedSpec, RerankSpec, Sampling, ScoreSpec
from diptych.engines.transformers.engine import TransformersEngine
from diptych.engines.transformers.sampler import Breaks, Chooser, repetitions
from diptych.library.text_folder import identify_text_folder

Load = Callable[[Path], Text]
IDS = tuple(range(20, 60))


@pytest.fixture(scope="module")
def load() -> Iterator[Load]:
    engines: dict[Path, TransformersEngine] = {}

    def loaded(folder: Path) -> Text:
        if folder not in engines:
            engines[folder] = TransformersEngine()
            engines[folder].load(LoadRequest(card=identify_text_folder(folder), threads=1,
                                             options={"slots": 2, "context": CONTEXT}))
        return Text(engines[folder])

    yield loaded
    for engine in engines.values():
        engine.close()


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny Llama with two adapters in its folder."""
    folder = tmp_path_factory.mktemp("adapted") / "tiny"
    shutil.copytree(tiny_hf.llama(), folder)
    tiny_hf.lora(folder, folder / "first")
    tiny_hf.lora(folder, folder / "second", seed=4, use_rslora=True)
    return folder


def logprobs(text: Text, *adapters: Adapter, prompt: tuple[int, ...] = IDS) -> list[float]:
    run = text.run(CompletionSpec(prompt=prompt, adapters=adapters, sampling=Sampling(
        temperature=0.0, max_tokens=4, ignore_eos=True, logprobs=0)))
    return [item.logprob for event in run.events if isinstance(event, TokenDelta) for item in event.logprobs]


def test_adapters_are_those_of_merged_weights(load: Load, adapted: Path) -> None:
    """Each request's own weights, against a model into whose matrices the adapters were added."""
    text = load(adapted)
    plain = logprobs(text)
    for adapters in ((("first", 1.0),), (("second", 0.5),), (("first", -0.5), ("second", 1.0))):
        model = transformers.AutoModelForCausalLM.from_pretrained(adapted, dtype=torch.float32).eval()
        for name, weight in adapters:
            tensors = tiny_hf.lora(adapted, adapted.parent / "unused", seed=3 if name == "first" else 4)
            scale = weight * (2.0 if name == "first" else 8 / math.sqrt(4))
            for key in (key for key in tensors if "lora_A" in key):
                module = model.get_submodule(key.removeprefix("base_model.model.").partition(".lora_")[0])
                with torch.no_grad():
                    module.weight += scale * tensors[key.replace("lora_A", "lora_B")] @ tensors[key]
        with torch.no_grad():
            logs = model(torch.tensor([IDS])).logits[0, -1].log_softmax(-1)
        told = logprobs(text, *(Adapter(id=name, weight=weight) for name, weight in adapters))
        assert told[0] == pytest.approx(logs.max().item(), abs=1e-4) and told != plain
    assert logprobs(text) == pytest.approx(plain, abs=1e-5)


def test_requests_with_different_adapters_side_by_side(load: Load, adapted: Path) -> None:
    text = load(adapted)
    alone = [text.run(_long(*given)).text for given in ((), (Adapter(id="first"),))]
    runs = [text.begin(_long(*given)) for given in ((), (Adapter(id="first"),))]
    assert [run.wait().text for run in runs] == alone and alone[0] != alone[1]


def _long(*adapters: Adapter) -> CompletionSpec:
    return CompletionSpec(prompt=IDS, adapters=adapters, sampling=Sampling(
        temperature=0.0, max_tokens=20, ignore_eos=True))


@pytest.mark.parametrize(("change", "words"), [
    ({"use_dora": True}, "use_dora"), ({"peft_type": "IA3"}, "IA3"), ({"r": "x"}, "cannot be read")])
def test_an_adapter_that_is_not_served_is_named(tmp_path: Path, change: dict[str, object], words: str) -> None:
    folder = tmp_path / "tiny"
    shutil.copytree(tiny_hf.llama(), folder)
    tiny_hf.lora(folder, folder / "odd", **change)
    with pytest.raises(InvalidRequest, match=words):
        TransformersEngine().load(LoadRequest(card=identify_text_folder(folder), threads=1))


@pytest.mark.parametrize(("pooling", "pick"), [
    (None, lambda states: states.mean(0)), ("mean_tokens", lambda states: states.mean(0)),
    ("cls_token", lambda states: states[0]), ("lasttoken", lambda states: states[-1])])
def test_vectors_of_an_encoder(load: Load, pooling: str | None, pick: Callable) -> None:  # type: ignore[type-arg]
    folder = tiny_hf.bert(f"tiny-bert-{pooling}", pooling)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    found = load(folder).run(EmbedSpec(model="x", inputs=("hello you", "a"), normalize=False)).data
    for text, vector in zip(("hello you", "a"), found["vectors"], strict=True):
        with torch.no_grad():
            expected = pick(model(torch.tensor([tokenizer(text)["input_ids"]])).last_hidden_state[0])
        assert np.allclose(vector, expected.numpy(), atol=1e-5)
    assert found["tokens"] == sum(len(tokenizer(text)["input_ids"]) for text in ("hello you", "a"))


def test_vectors_of_a_chat_model_have_length_one(load: Load) -> None:
    vectors = load(tiny_hf.llama()).run(EmbedSpec(model="x", inputs=("one two", IDS))).data["vectors"]
    assert [len(vector) for vector in vectors] == [64, 64]
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)


def test_relevance_is_the_cross_encoder_s(load: Load) -> None:
    folder = tiny_hf.bert("tiny-reranker")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    documents = ("a cat", "dogs bark", "x")
    scores = load(folder).run(RerankSpec(model="x", query="who barks", documents=documents)).data["scores"]
    for document, score in zip(documents, scores, strict=True):
        with torch.no_grad():
            given = tokenizer("who barks", document, return_tensors="pt")
            types = torch.tensor([load(folder).engine._loaded.listener.whole(  # type: ignore[attr-defined]
                "who barks", document)[1]])
            expected = model(given["input_ids"], token_type_ids=types).logits.item()
        assert score == pytest.approx(expected, abs=1e-5)
    with pytest.raises(InvalidRequest, match="no text"):
        load(folder).run(CompletionSpec(prompt="a"))


def test_scores_are_exact(load: Load) -> None:
    """Of options of several tokens, against one forward pass over prompt and option."""
    text, options = load(tiny_hf.llama()), ("one two three", " again", "Question", "")
    messages = (Message(role="user", content="Hello."),)
    found = text.run(ScoreSpec(messages=messages, options=options)).data["logprobs"]
    loaded = text.engine._loaded  # type: ignore[attr-defined]
    prompt = text.engine._measures._prompts.score(  # type: ignore[attr-defined]
        ScoreSpec(messages=messages, options=options)).tokens
    for option, score in zip(options, found, strict=True):
        tokens = loaded.listener.tokens(option, special=False)
        with torch.no_grad():
            logs = loaded.model(torch.tensor([[*prompt, *tokens]])).logits[0].log_softmax(-1)
        expected = sum(logs[len(prompt) - 1 + place, token].item() for place, token in enumerate(tokens))
        assert score == pytest.approx(expected, abs=1e-4)


def test_a_gap_is_filled(load: Load) -> None:
    text = load(tiny_hf.llama())
    spec = CompletionSpec(prompt="one ", suffix=" three", sampling=Sampling(temperature=0.0, max_tokens=2))
    tokens = text.engine._decoder._prompts.completion(spec).tokens  # type: ignore[attr-defined]
    names = text.engine._loaded.vocabulary.ids  # type: ignore[attr-defined]
    places = [tokens.index(names[name]) for name in ("<fim_prefix>", "<fim_suffix>", "<fim_middle>")]
    assert places == sorted(places) and places[2] == len(tokens) - 1
    assert isinstance(text.run(spec).last, Finished)


def test_what_was_read_is_not_read_again(load: Load) -> None:
    text = load(tiny_hf.llama())
    first = logprobs(text, prompt=tuple(range(30, 130)))
    run = text.run(CompletionSpec(prompt=(*range(30, 130), 7, 8), sampling=Sampling(temperature=0.0, max_tokens=2)))
    assert run.metrics["cached_tokens"] == 100
    assert logprobs(text, prompt=tuple(range(30, 130))) == pytest.approx(first, abs=1e-4)


def test_characters_are_whole(load: Load) -> None:
    """Bytes forced one by one by a grammar come out as whole characters."""
    spec = CompletionSpec(prompt=IDS, grammar='start: "äöü€🙂" "end"', sampling=Sampling(temperature=1.0, seed=3))
    run = load(tiny_hf.llama()).run(spec)
    assert run.text == "äöü€🙂end"
    assert all("\ufffd" not in event.text for event in run.events if isinstance(event, TokenDelta))


def chosen(sampling: Sampling, logits: list[float], before: tuple[int, ...] = (), times: int = 300) -> set[int]:
    chooser = Chooser(sampling, {}, lambda id: b"x")
    return {chooser.choose(np.array(logits), before) for _ in range(times)}


def draw(**values: object) -> Sampling:
    return Sampling.model_validate({"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "seed": 5, **values})


LOGITS = [3.0, 2.9, 2.0, 0.0, -1.0]


@pytest.mark.parametrize(("sampling", "kept"), [
    (draw(), {0, 1, 2, 3, 4}), (draw(top_k=2), {0, 1}), (draw(top_p=0.5), {0, 1}), (draw(min_p=0.3), {0, 1, 2}),
    (draw(typical_p=0.5), {0, 1}), (draw(temperature=0.0), {0}), (draw(temperature=0.01), {0, 1}),
])
def test_what_is_left_to_draw_from(sampling: Sampling, kept: set[int]) -> None:
    assert chosen(sampling, LOGITS, times=3000) <= kept and len(chosen(sampling, LOGITS, times=3000)) == len(kept)


def test_penalties() -> None:
    assert chosen(draw(temperature=0.0, presence_penalty=1.0), LOGITS, (0,)) == {1}
    assert chosen(draw(temperature=0.0, frequency_penalty=0.06), LOGITS, (0,)) == {0}
    assert chosen(draw(temperature=0.0, frequency_penalty=0.06), LOGITS, (0, 0)) == {1}
    assert chosen(draw(temperature=0.0, repeat_penalty=1.5), LOGITS, (0, 1)) == {0}
    assert chosen(draw(temperature=0.0, repeat_penalty=1.6, repeat_last_n=1), LOGITS, (0, 1)) == {0}
    assert chosen(draw(temperature=0.0, repeat_penalty=1.6, repeat_last_n=2), LOGITS, (0, 1)) == {2}


def test_dry() -> None:
    tokens = (1, 2, 3, 4, 1, 2, 3)
    assert repetitions(tokens, [False] * 7) == {4: 3}
    assert repetitions(tokens, [False, False, True, False, False, False, True]) == {}
    assert repetitions(tokens, [False, True, False, False, False, True, False]) == {4: 1}
    dry = draw(temperature=0.0, dry_multiplier=1.0, dry_allowed_length=2)
    assert chosen(dry, LOGITS, (1, 2, 0, 1, 2)) == {1}
    assert chosen(dry, LOGITS, (2, 0, 1, 2)) == {0}  # shorter than what is allowed


def test_breaks_go_over_tokens() -> None:
    words = {0: b"a", 1: b"b\n", 2: b"\nc", 3: b"STO", 4: b"P!"}
    breaks = Breaks(("\n", "STOP"), words.__getitem__)
    assert list(breaks.of((0, 1, 0))) == [False, True, False]
    assert list(breaks.of((0, 1, 0, 2, 3, 4, 4))) == [False, True, False, True, False, True, False]
