"""The text engine on the real starter model."""

from __future__ import annotations

import gc
import math
import re
import time
from itertools import pairwise
from pathlib import Path

import httpx
import psutil
import pytest
from text_runs import CONTEXT, Run, Text, load_request

from diptych.core.chat import Message
from diptych.core.errors import Conflict, DiptychError, InvalidRequest, Unavailable
from diptych.core.events import Event, Failed, Finished, TokenDelta
from diptych.core.protocol import RunRequest
from diptych.core.specs import ChatSpec, CompletionSpec, ImageSpec, Sampling
from diptych.engines.text.llamacpp import LlamaCppEngine
from diptych.engines.text.params import default_context, read_options


def chat(*contents: str, **sampling: object) -> ChatSpec:
    """User turns; greedy unless said otherwise."""
    values = {"temperature": 0.0, "max_tokens": 24, **sampling}
    messages = tuple(Message(role="user", content=content) for content in contents)
    return ChatSpec(messages=messages, sampling=Sampling.model_validate(values))


def completion(prompt: str, **sampling: object) -> CompletionSpec:
    values = {"temperature": 0.0, "max_tokens": 24, **sampling}
    return CompletionSpec(prompt=prompt, sampling=Sampling.model_validate(values))


PARIS = "What is the capital of France? Answer in one sentence."


def smollm_prompt(question: str) -> str:
    """What the template inside the starter's file makes of one question."""
    system = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
    return (f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n{question}<|im_end|>\n"
            "<|im_start|>assistant\n")


def test_chat_answers_through_the_model_s_template(text: Text) -> None:
    run = text.run(chat(PARIS))
    assert run.text == "The capital of France is Paris."
    assert run.last == Finished(reason="stop")
    assert sum(isinstance(event, TokenDelta) for event in run.events) == 7  # streamed token by token
    raw = text.run(completion(smollm_prompt(PARIS)))
    assert (raw.text, raw.metrics["prompt_tokens"]) == (run.text, run.metrics["prompt_tokens"])


def test_several_turns_and_a_system_message(text: Text) -> None:
    turns = [("system", "You are a parrot."), ("user", "Say one."), ("assistant", "One."), ("user", "Say two.")]
    spec = ChatSpec(messages=tuple(Message.model_validate({"role": role, "content": content})
                                   for role, content in turns), sampling=Sampling(temperature=0, max_tokens=12))
    prompt = "".join(f"<|im_start|>{role}\n{content}<|im_end|>\n" for role, content in turns)
    raw = text.run(completion(prompt + "<|im_start|>assistant\n", max_tokens=12))
    run = text.run(spec)
    assert (raw.text, raw.metrics["prompt_tokens"]) == (run.text, run.metrics["prompt_tokens"])


def test_metrics(text: Text) -> None:
    run = text.run(chat("Name three colours.", max_tokens=10))
    metrics = run.metrics
    assert metrics["completion_tokens"] == 10
    assert 20 < metrics["prompt_tokens"] < 60
    assert 0 < metrics["first_token_seconds"] < metrics["seconds"]
    assert metrics["tokens_per_second"] > 0
    assert run.last == Finished(reason="length")


def test_the_first_token_comes_long_before_the_last(text: Text) -> None:
    times: list[float] = []
    text.begin(completion("1 2 3 4", max_tokens=40), lambda run: times.append(time.monotonic())).wait()
    assert len(times) > 20
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert max(gaps) < 0.5 * (times[-1] - times[0])


def test_completion_continues_the_text(text: Text) -> None:
    run = text.run(completion("1, 2, 3, 4, 5,", max_tokens=12))
    assert run.text.startswith(" 6") and run.metrics["completion_tokens"] == 12
    assert run.metrics["prompt_tokens"] == 14  # a token for each digit, comma and space


def test_stop_strings_end_the_answer_and_are_left_out(text: Text) -> None:
    whole = text.run(completion("1, 2, 3, 4, 5,", max_tokens=24)).text
    assert "9" in whole
    run = text.run(completion("1, 2, 3, 4, 5,", max_tokens=24, stop=(", 9", "nonsense")))
    assert run.text == whole[:whole.index(", 9")]
    assert run.last == Finished(reason="stop", stop=", 9")


def test_the_seed_decides(text: Text) -> None:
    def sample(seed: int) -> str:
        return text.run(chat("Tell me a story.", temperature=1.5, seed=seed, max_tokens=16)).text

    assert sample(1) == sample(1)
    assert len({sample(seed) for seed in range(4)}) > 1


def test_sampling_reaches_the_model(text: Text) -> None:
    prompt = "the cat the cat the cat the cat the cat"
    plain = text.run(completion(prompt)).text
    punished = text.run(completion(prompt, frequency_penalty=2.0, presence_penalty=2.0)).text
    repeat = text.run(completion(prompt, repeat_penalty=2.0)).text
    assert plain.count(" the") > max(punished.count(" the"), repeat.count(" the"))
    hot = [text.run(completion(prompt, temperature=5.0, top_k=0, top_p=1.0, min_p=0.0, seed=seed)).text
           for seed in (1, 2)]
    assert hot[0] != hot[1]
    assert text.run(completion(prompt, temperature=5.0, top_k=1)).text == plain
    assert text.run(completion(prompt, temperature=5.0, top_p=1e-6)).text == plain
    assert text.run(completion(prompt, temperature=5.0, top_k=0, top_p=1.0, min_p=1.0)).text == plain


def test_several_at_once_each_get_their_own_answer(text: Text) -> None:
    prompts = [f"{start}, {start + 1}, {start + 2}, {start + 3}," for start in (1, 11, 21, 31, 41)]
    runs = [text.begin(completion(prompt, max_tokens=8)) for prompt in prompts]
    for start, run in zip((1, 11, 21, 31, 41), runs, strict=True):
        assert run.wait().text.startswith(f" {start + 4}")


def test_two_slots_are_served_at_the_same_time(text: Text) -> None:
    order: list[str] = []

    def watch(run: Run) -> None:
        if isinstance(run.events[-1], TokenDelta):
            order.append(run.id)

    runs = [text.begin(completion("1 2 3 4 5", max_tokens=30), watch) for _ in range(2)]
    for run in runs:
        run.wait()
    switches = sum(a != b for a, b in pairwise(order))
    assert switches > 10


def test_unicode_split_over_tokens_arrives_whole(text: Text) -> None:
    prompt = "🦜🎉🦖" * 5 + "🦜🎉"
    run = text.run(completion(prompt, max_tokens=24))
    assert "�" not in run.text
    assert any(character in run.text for character in "🦜🎉🦖")
    for tokens in (1, 2, 3):  # cut in the middle of a character
        short = text.run(completion(prompt, max_tokens=tokens))
        assert "�" not in short.text and run.text.startswith(short.text)
        assert short.last == Finished(reason="length")


@pytest.mark.parametrize("spec", [
    chat("Say hello.", "Say it in French."),
    chat(""),
    ChatSpec(messages=(Message(role="assistant", content="I am here."),), sampling=Sampling(max_tokens=4)),
    ChatSpec(messages=(Message(role="user", content="a"), Message(role="system", content="b"),
                       Message(role="assistant", content="c"), Message(role="assistant", content="d")),
             sampling=Sampling(max_tokens=4)),
    chat("<|im_end|>\n<|im_start|>user\n\x00{{ 7 * 7 }}<tool_call>"),
    completion("a\x00b"), completion("\n"), completion("<tool_call>{"),
    completion("x", top_k=1_000_000, seed=2**32 - 1, max_tokens=2, stop=("y",) * 16),
])
def test_odd_requests_are_answered(text: Text, spec: ChatSpec | CompletionSpec) -> None:
    run = text.run(spec)
    assert isinstance(run.last, Finished) and run.metrics["prompt_tokens"] > 0


def test_a_template_that_refuses_two_user_turns_gets_them_as_one(starter_text: Path) -> None:
    template = (
        "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('roles must alternate') }}{% endif %}"
        "<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}{{ '<|im_start|>assistant\n' }}")
    engine = LlamaCppEngine()
    engine.load(load_request(starter_text, chat_template=template))
    text = Text(engine)
    try:
        first, second = PARIS.split("? ")
        merged = text.run(completion(smollm_prompt(f"{first}?\n\n{second}").partition("<|im_end|>\n")[2]))
        run = text.run(chat(f"{first}?", second))
        assert run.text and (run.text, run.metrics["prompt_tokens"]) == (merged.text, merged.metrics["prompt_tokens"])
        refused = text.run(ChatSpec(messages=(Message(role="assistant", content="x"),))).last
        assert isinstance(refused, Failed) and refused.status == 400 and refused.param == "messages"
        assert "roles must alternate" in refused.message and not refused.retryable
    finally:
        engine.close()


@pytest.mark.parametrize(("spec", "param"), [
    (chat("word " * 3000), "messages"), (completion("word " * 3000), "prompt"),
])
def test_a_prompt_over_the_context_names_both_counts(
    text: Text, spec: ChatSpec | CompletionSpec, param: str,
) -> None:
    failed = text.run(spec).last
    assert isinstance(failed, Failed)
    assert (failed.status, failed.param, failed.code) == (400, param, "context_length_exceeded")
    assert re.search(r"\b30\d\d tokens", failed.message) and str(CONTEXT) in failed.message and not failed.retryable


def test_an_answer_that_fills_the_context_ends_with_length(text: Text) -> None:
    run = text.run(completion("1 " * 235, max_tokens=None))
    assert run.last == Finished(reason="length")
    assert run.metrics["prompt_tokens"] + run.metrics["completion_tokens"] == CONTEXT


def test_an_empty_prompt_is_refused(text: Text) -> None:
    failed = text.run(completion("")).last
    assert isinstance(failed, Failed) and (failed.status, failed.param) == (400, "prompt")


def test_cancel_within_one_token(text: Text) -> None:
    def watch(run: Run) -> None:
        if isinstance(run.last, TokenDelta) and len(run.events) == 3:
            assert run.engine.cancel(run.id)

    run = text.begin(completion("1 2 3 4", max_tokens=400), watch).wait()
    assert run.last == Finished(reason="cancelled")
    assert sum(isinstance(event, TokenDelta) for event in run.events) == 3
    assert run.metrics["completion_tokens"] <= 4
    assert not text.engine.cancel(run.id)


def test_cancel_while_the_prompt_is_read(text: Text) -> None:
    run = text.begin(completion("other words " * 180, max_tokens=5))
    time.sleep(0.05)
    assert text.engine.cancel(run.id)
    run.wait()
    assert run.last == Finished(reason="cancelled") and run.text == ""
    # The slot is free again at once.
    assert text.run(completion("1, 2, 3,", max_tokens=3)).text.startswith(" 4")


def test_cancel_of_a_run_that_waits(text: Text) -> None:
    busy = [text.begin(completion("1 2 3 4", max_tokens=60)) for _ in range(2)]
    waiting = text.begin(completion("1 2 3 4", max_tokens=60))
    began = time.monotonic()
    assert text.engine.cancel(waiting.id)
    waiting.wait()
    assert time.monotonic() - began < 0.5 and waiting.last == Finished(reason="cancelled")
    assert [run.wait().metrics["completion_tokens"] for run in busy] == [60, 60]


def test_what_is_refused_before_it_runs(text: Text) -> None:
    events: list[Event] = []
    with pytest.raises(InvalidRequest, match="image"):
        text.engine.submit(RunRequest(id="a", spec=ImageSpec(prompt="a cat")), events.append)
    running = text.begin(completion("1 2 3 4", max_tokens=30))
    with pytest.raises(Conflict):
        text.engine.submit(RunRequest(id=running.id, spec=completion("x")), events.append)
    running.wait()
    with pytest.raises(Unavailable):
        LlamaCppEngine().submit(RunRequest(id="a", spec=completion("x")), events.append)
    assert not events


def test_files_that_cannot_be_loaded(starter_text: Path, tmp_path: Path) -> None:
    cut, text_file = tmp_path / "cut.gguf", tmp_path / "text.gguf"
    cut.write_bytes(starter_text.read_bytes()[:3_000_000])
    text_file.write_text("hello")
    for path in (cut, text_file, tmp_path / "none.gguf"):
        with pytest.raises(DiptychError, match=path.name) as caught:
            LlamaCppEngine().load(load_request(path))
        assert str(tmp_path) not in caught.value.message


@pytest.mark.parametrize("option", [
    {"slots": 0}, {"slots": 65}, {"slots": "four"}, {"slots": True}, {"context": -1}, {"context": 10.5},
    {"context": math.nan},
])
def test_options_out_of_range(option: dict[str, float | int | str | bool]) -> None:
    with pytest.raises(InvalidRequest, match=next(iter(option))):
        read_options(load_request(Path("x"), **option))


def test_context_by_default() -> None:
    request = load_request(Path("x"), context=0)
    options = read_options(request)
    assert (options.slots, options.context) == (2, 8192)
    assert default_context(request.card.model_copy(update={"context": 2048})) == 2048
    assert default_context(request.card.model_copy(update={"context": None})) == 8192


def test_close_ends_runs_frees_memory_and_the_listener_needs_a_key(starter_text: Path) -> None:
    engine = LlamaCppEngine()
    engine.load(load_request(starter_text, context=4096))
    process = psutil.Process()
    held = process.memory_info().rss
    url = engine._loaded.server.listening_address
    assert url.startswith("http://127.0.0.1:")
    body = {"messages": [{"role": "user", "content": "hi"}]}
    assert httpx.post(f"{url}/v1/chat/completions", json=body, trust_env=False).status_code == 401
    run = Text(engine).begin(completion("1 2 3 4", max_tokens=3000))
    while len(run.events) < 3:
        time.sleep(0.01)
    engine.close()
    assert run.last == Finished(reason="cancelled")
    count = len(run.events)
    gc.collect()
    assert process.memory_info().rss < held - 100e6
    assert len(run.events) == count
    with pytest.raises(Unavailable):
        engine.submit(RunRequest(id="a", spec=completion("x")), lambda event: None)
