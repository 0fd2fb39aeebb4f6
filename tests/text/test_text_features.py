"""What only some models and options have: adapters, types of the cache, faulty pictures, vectors, prefix cache."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tiny
from contract import chat, completion, refused
from text_runs import Text, load_request

from diptych.core.cards import Card
from diptych.core.chat import ImagePart, Message, TextPart, Tool
from diptych.core.errors import InvalidRequest
from diptych.core.events import Failed, Finished, TokenDelta
from diptych.core.protocol import LoadRequest
from diptych.core.specs import Adapter, ChatSpec, CompletionSpec, EmbedSpec, RerankSpec, Sampling, ScoreSpec
from diptych.engines.text.llamacpp import LlamaCppEngine
from diptych.library.identify import identify_gguf

HI = (Message(role="user", content="Hi."),)


def loaded(path: Path, **options: float | int | str | bool) -> Text:
    card = identify_gguf(path)
    assert card is not None
    return loaded_card(card, **options)


def loaded_card(card: Card, **options: float | int | str | bool) -> Text:
    engine = LlamaCppEngine()
    engine.load(LoadRequest(card=card, threads=1, options={"slots": 2, "context": 512, **options}))
    return Text(engine)


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Text]:
    """A tiny model with an adapter and a projector beside it."""
    folder = tmp_path_factory.mktemp("full")
    model = tiny.mistral("v7")
    for path in (model, tiny.lora(model), tiny.projector(model)):
        (folder / path.name).symlink_to(path)
    text = loaded(folder / model.name)
    yield text
    text.engine.close()


def test_files_beside_a_model_are_found(tmp_path: Path) -> None:
    model = tmp_path / "m.gguf"
    shutil.copy(tiny.mistral("v7"), model)
    card = identify_gguf(model)
    assert card is not None and not card.vision and card.adapters == () and card.projector is None
    for name in ("my-lora.gguf", "mmproj-F16.gguf"):
        shutil.copy(tiny.lora(model) if "lora" in name else tiny.projector(model), tmp_path / name)
    card = identify_gguf(model)
    assert card is not None and card.vision and card.projector == str(tmp_path / "mmproj-F16.gguf")
    assert [adapter.id for adapter in card.adapters] == ["my-lora"]
    assert identify_gguf(tmp_path / "my-lora.gguf") is None and identify_gguf(tmp_path / "mmproj-F16.gguf") is None


def test_an_adapter_is_applied_per_request(full: Text) -> None:
    def answer(*weights: float) -> str:
        adapters = tuple(Adapter(id="tiny-lora", weight=weight) for weight in weights)
        return full.run(chat("Hi.", max_tokens=6).model_copy(update={"adapters": adapters})).text

    plain = answer()
    assert answer(0.0) == plain != answer(2.0) != answer(-2.0)
    assert answer() == plain  # nothing of it stays
    known = refused(full, chat("Hi.").model_copy(update={"adapters": (Adapter(id="other"),)}), "adapters")
    assert "tiny-lora" in known.message


def test_a_picture_that_is_none_is_refused(full: Text) -> None:
    broken = Message(role="user", content=(TextPart(text="?"), ImagePart(data="bm8gcGljdHVyZQ==")))
    failed = full.run(ChatSpec(messages=(broken,))).last
    assert isinstance(failed, Failed) and failed.status == 400


def test_a_picture_for_a_model_that_cannot_see_names_the_missing_file(text: Text) -> None:
    seen = Message(role="user", content=(TextPart(text="?"), ImagePart(data="AAAA")))
    failed = refused(text, ChatSpec(messages=(seen,)), "messages".removesuffix("messages") or None)
    assert "starter-text" in failed.message and "mmproj" in failed.message and failed.param == "messages"


def test_a_model_with_a_projector_does_all_that_others_do(full: Text) -> None:
    run = full.run(chat("Hi.", max_tokens=5, ignore_eos=True, logprobs=1))
    assert run.metrics["completion_tokens"] == 5 and run.last == Finished(reason="length")
    assert full.run(chat("Hi.", max_tokens=9).model_copy(update={"grammar": 'start: "yes"'})).text == "yes"
    assert len(full.run(ScoreSpec(messages=HI, options=("a", "bc", ""))).data["logprobs"]) == 3

    def stop(run: object) -> None:
        if sum(isinstance(event, TokenDelta) for event in run.events) == 3:  # type: ignore[attr-defined]
            full.engine.cancel(run.id)  # type: ignore[attr-defined]

    for _ in range(4):
        ended = full.begin(completion("a b c", max_tokens=400, ignore_eos=True), stop).wait()
        assert ended.last == Finished(reason="cancelled") and ended.metrics["completion_tokens"] <= 4


@pytest.mark.parametrize("options", [{"cache_type": "q8_0"}, {"cache_type": "f32", "flash_attention": "off"},
                                     {"flash_attention": "on"}])
def test_types_of_the_cache(starter_text: Path, options: dict[str, str]) -> None:
    card = load_request(starter_text).card
    text = loaded_card(card, **options)
    try:
        question = "What is the capital of France? Answer in one sentence."
        assert text.run(chat(question, max_tokens=12)).text == "The capital of France is Paris."
    finally:
        text.engine.close()


@pytest.mark.parametrize("option", [
    {"cache_type": "q3"}, {"flash_attention": "maybe"}, {"cache_type": "q4_0", "flash_attention": "off"}, {"batch": 0},
])
def test_bad_options(option: dict[str, float | int | str | bool]) -> None:
    with pytest.raises(InvalidRequest, match=next(iter(option))):
        LlamaCppEngine().load(load_request(Path("x"), **option))


def test_the_second_turn_reuses_the_first_s_tokens(text: Text) -> None:
    first = Message(role="user", content="Tell me about the sea. " + "It is blue. " * 40)
    begun = text.run(chat(first, max_tokens=8))
    text.run(completion("something else that takes the other slot"))
    answer = Message(role="assistant", content=begun.text)
    second = text.run(chat(first, answer, "And the sky?", max_tokens=4))
    reused, fresh = second.metrics["cached_tokens"], second.metrics["prompt_tokens"] - second.metrics["cached_tokens"]
    assert reused >= begun.metrics["prompt_tokens"] - 8 and fresh < 40


def test_dry_and_penalties_end_a_loop(text: Text) -> None:
    loop = "the cat sat on the mat and " * 5 + "the cat"

    def answer(**sampling: object) -> str:
        run = text.run(completion(loop, max_tokens=24, ignore_eos=True, **sampling))
        assert run.last == Finished(reason="length"), run.last
        return run.text

    plain = answer()
    assert "sat on the mat and the cat sat" in plain
    dry = {"dry_multiplier": 2.0, "dry_base": 2.0, "dry_allowed_length": 2}
    assert "sat on the mat and the cat sat" not in answer(**dry)
    assert answer(**dry, dry_sequence_breakers=(" the", " cat", " sat", " on", " mat")) != answer(
        **dry, dry_sequence_breakers=())
    assert answer(**dry, dry_penalty_last_n=0) == plain
    assert answer(repeat_penalty=1.6, repeat_last_n=-1) != plain == answer(repeat_penalty=1.6, repeat_last_n=0)


def test_logit_bias_by_id_and_by_text(text: Text) -> None:
    plain = text.run(completion("1, 2, 3, 4,", max_tokens=2)).text
    assert plain == " 5"
    assert text.run(completion("1, 2, 3, 4,", max_tokens=2, logit_bias={"5": 0.0})).text == plain
    banned = text.run(completion("1, 2, 3, 4, ", max_tokens=1, logit_bias={"<|im_end|>": -100.0, "4": 100.0}))
    assert banned.metrics["completion_tokens"] == 1
    id = text.engine._loaded.listener.tokens("7")[0]  # type: ignore[attr-defined]
    by_id = text.run(completion("1, 2, 3, 4, ", max_tokens=1, logit_bias={str(id): 100.0})).text
    assert by_id == "7"
    assert text.run(completion("1, 2, 3, 4, ", max_tokens=1, logit_bias={" seven": 100.0})).text == " seven"
    assert text.run(completion("1, 2, 3, 4,", max_tokens=2, typical_p=0.01)).last == Finished(reason="length")


def test_a_gap_where_the_model_has_no_tokens_for_it(text: Text) -> None:
    refused(text, CompletionSpec(prompt="a", suffix="b"), "suffix")


def test_prompts_of_token_ids(text: Text) -> None:
    ids = text.engine._loaded.listener.tokens("1, 2, 3, 4, 5,")  # type: ignore[attr-defined]
    run = text.run(completion(tuple(ids), max_tokens=4))
    assert run.text == text.run(completion("1, 2, 3, 4, 5,", max_tokens=4)).text


def test_vectors(text: Text) -> None:
    inputs = ("A cat sat.", "A kitten sat.", "The stock market fell on Monday.", "A cat sat. " * 60)
    run = text.run(EmbedSpec(model="m", inputs=inputs))
    vectors = np.array(run.data["vectors"])
    assert vectors.shape == (4, 576) and np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-3)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2]
    raw = np.array(text.run(EmbedSpec(model="m", inputs=inputs[:2], normalize=False)).data["vectors"])
    assert np.linalg.norm(raw[0]) > 2
    assert np.allclose(raw[0] / np.linalg.norm(raw[0]), vectors[0], atol=5e-3)
    ids = tuple(text.engine._loaded.listener.tokens(inputs[0]))  # type: ignore[attr-defined]
    assert np.allclose(text.run(EmbedSpec(model="m", inputs=(ids,))).data["vectors"][0], vectors[0], atol=5e-3)
    assert refused(text, EmbedSpec(model="m", inputs=("word " * 2000,))).code == "context_length_exceeded"
    for wrong in (("",), ((-1,),), ((10**9,),), ((),)):
        assert refused(text, EmbedSpec(model="m", inputs=wrong)).param == "input[0]"
    refused(text, RerankSpec(model="m", query="a", documents=("b",)))


def test_a_score_is_the_sum_over_the_option_s_tokens(text: Text) -> None:
    messages = (Message(role="user", content="What is the capital of France? One word."),)
    options = ("Paris", "Berlin", "Paris is the capital", "")
    scores = text.run(ScoreSpec(messages=messages, options=options)).data["logprobs"]
    assert scores[0] > scores[1] and scores[3] == 0 and scores[2] < scores[0]
    whole = chat(*messages, max_tokens=12, logprobs=0)
    run = text.run(whole)
    told = [item for event in run.events if isinstance(event, TokenDelta) for item in event.logprobs]
    made = "".join(item.token for item in told if item.token)  # the end has no text
    sure = math.fsum(item.logprob for item in told if item.token)
    assert text.run(ScoreSpec(messages=messages, options=(made,))).data["logprobs"][0] == pytest.approx(sure, abs=0.1)


def test_a_template_that_takes_tools_gets_them_and_options(starter_text: Path) -> None:
    template = ("{% for t in tools or [] %}<tool_call>{{ t.function.name }} {% endfor %}"
                "{% if enable_thinking %}think {{ reasoning_effort }} {% endif %}{% if loud %}LOUD {% endif %}"
                "{% for m in messages %}{{ m.content }} {% endfor %}")
    card = load_request(starter_text).card.model_copy(update={"tools": True})
    text = loaded_card(card, chat_template=template)
    try:
        def count(spec: ChatSpec) -> float:
            return text.run(spec).metrics["prompt_tokens"]

        plain = chat("Hi.", max_tokens=1)
        tools = (Tool(name="weather_in_a_city"),)
        said = [count(plain), count(plain.model_copy(update={"tools": tools})),
                count(plain.model_copy(update={"template_options": {"loud": True}})),
                count(plain.model_copy(update={"reasoning_effort": "high"}))]
        assert said[0] == count(plain.model_copy(update={"reasoning_effort": "none"})) < min(said[1:])
    finally:
        text.engine.close()


def test_sampling_defaults_are_a_whole_request(text: Text) -> None:
    run = text.run(ChatSpec(messages=HI, sampling=Sampling(max_tokens=4)))
    assert isinstance(run.last, Finished)
