"""What every text engine has to do, whatever its model: a suite to inherit from.

A subclass has a fixture `text` (class or session scope): a `Text` around an engine that has loaded a chat model with
two slots of `CONTEXT` tokens each.
"""

from __future__ import annotations

import json
import math
import time

import pytest
from text_runs import CONTEXT, Run, Text

from diptych.core.chat import Message, OutputFormat
from diptych.core.errors import DiptychError
from diptych.core.events import Failed, Finished, TokenDelta
from diptych.core.protocol import RunRequest
from diptych.core.specs import Adapter, ChatSpec, CompletionSpec, ImageSpec, Sampling, ScoreSpec, TextSpec

PROMPT = "one two three four five six seven"


def greedy(**sampling: object) -> Sampling:
    return Sampling.model_validate({"temperature": 0.0, "max_tokens": 16, **sampling})


def completion(prompt: str | tuple[int, ...] = PROMPT, **sampling: object) -> CompletionSpec:
    return CompletionSpec(prompt=prompt, sampling=greedy(**sampling))


def chat(*turns: str | Message, **sampling: object) -> ChatSpec:
    messages = tuple(turn if isinstance(turn, Message) else Message(role="user", content=turn) for turn in turns)
    return ChatSpec(messages=messages, sampling=greedy(**sampling))


def refused(text: Text, spec: TextSpec, param: str | None = None, status: int = 400) -> Failed:
    """The refusal of a spec, whether it comes at once or as the last event; no text before it."""
    try:
        run = text.run(spec)
    except DiptychError as error:
        failed = Failed(message=error.message, status=error.status, param=error.param, code=error.code)
    else:
        assert run.text == "" and isinstance(run.last, Failed), run.last
        failed = run.last
    assert failed.status == status and not failed.retryable
    if param is not None:
        assert failed.param is not None and failed.param.startswith(param) and param in failed.message
    return failed


class TextEngineContract:
    """Inherited by a test class for each engine."""

    def test_streams_token_by_token(self, text: Text) -> None:
        times: list[float] = []
        run = text.begin(completion(max_tokens=24, ignore_eos=True), lambda run: times.append(time.monotonic())).wait()
        deltas = [event for event in run.events if isinstance(event, TokenDelta)]
        assert len(deltas) > 8 and times[len(deltas) // 2] < times[-1]

    def test_usage_counts(self, text: Text) -> None:
        run = text.run(completion(max_tokens=9, ignore_eos=True))
        assert run.last == Finished(reason="length")
        metrics = run.metrics
        assert metrics["completion_tokens"] == 9 and metrics["prompt_tokens"] >= 7
        assert 0 < metrics["first_token_seconds"] <= metrics["seconds"]

    def test_the_same_again_at_temperature_zero(self, text: Text) -> None:
        assert text.run(completion()).text == text.run(completion()).text

    def test_the_seed_decides(self, text: Text) -> None:
        def sampled(seed: int) -> str:
            return text.run(completion(temperature=2.0, top_k=0, top_p=1.0, min_p=0.0, seed=seed)).text

        assert sampled(1) == sampled(1)
        assert len({sampled(seed) for seed in range(4)}) > 1

    def test_stop_ends_the_answer_is_left_out_and_named(self, text: Text) -> None:
        whole = text.run(completion(max_tokens=24, ignore_eos=True)).text
        stop = whole[len(whole) // 2:len(whole) // 2 + 3]
        run = text.run(completion(max_tokens=24, ignore_eos=True, stop=("never in it \u2603", stop), logprobs=0))
        assert run.text == whole[:whole.index(stop)]
        assert run.last == Finished(reason="stop", stop=stop)
        assert run.metrics["completion_tokens"] <= 24

    def test_a_stop_text_that_never_comes_takes_nothing_away(self, text: Text) -> None:
        whole = text.run(completion(ignore_eos=True)).text
        run = text.run(completion(ignore_eos=True, stop=(whole[-2:] + "\u2603",)))
        assert run.text == whole and run.last == Finished(reason="length")

    def test_logprobs(self, text: Text) -> None:
        def answer(prompt: str, **more: object) -> Run:
            return text.run(completion(prompt, max_tokens=6, ignore_eos=True, **more))

        # A character cut over several tokens is told as a whole: an answer without such ones.
        prompt, run = next((f"{word} {PROMPT}", run) for word in "abcdefghijkl"
                           if (run := answer(f"{word} {PROMPT}", logprobs=3)).text.isascii())
        told = [item for event in run.events if isinstance(event, TokenDelta) for item in event.logprobs]
        assert len(told) == 6
        for item in told:
            assert -1e4 <= item.logprob <= 0 and len(item.top) == 3
            assert item.top[0].logprob == pytest.approx(item.logprob, abs=1e-3)  # greedy: the likeliest one
            assert sum(math.exp(other.logprob) for other in item.top) <= 1 + 1e-3
        assert b"".join(bytes(item.bytes or ()) for item in told).decode(errors="ignore").startswith(run.text[:4])
        plain = answer(prompt)
        assert plain.text == run.text and not any(
            event.logprobs for event in plain.events if isinstance(event, TokenDelta))

    @pytest.mark.parametrize(("grammar", "check"), [
        ('start: "yes" | "no"', lambda answer: answer in ("yes", "no")),
        ("start: /[0-9]{3}-[a-f]{2}/", lambda answer: len(answer) == 6 and answer[:3].isdigit() and answer[3] == "-"),
        ('start: %json {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"], '
         '"additionalProperties": false, "x-guidance": {"whitespace_flexible": false}}',
         lambda answer: json.loads(answer)["a"] in (1, 2)),
        ('%llguidance {}\nstart: "x" word\nword: "y"{2,4} "z"', lambda answer: answer in ("xyyz", "xyyyz", "xyyyyz")),
    ])
    @pytest.mark.parametrize("temperature", [0.0, 1.5])
    def test_a_grammar_holds(self, text: Text, grammar: str, check: object, temperature: float) -> None:
        spec = chat("Say something.", max_tokens=40, temperature=temperature, seed=7).model_copy(
            update={"grammar": grammar})
        run = text.run(spec)
        assert run.last == Finished(reason="stop") and check(run.text), run.text  # type: ignore[operator]

    @pytest.mark.parametrize("grammar", [
        "start: nosuch ((", "start: other", "", "%llguidance {}\nstart:: x", 'start: <no_such_token_anywhere>',
        'start: %json {"type": "nosuch"}', "start: /[/",
    ])
    def test_an_invalid_grammar_is_refused(self, text: Text, grammar: str) -> None:
        refused(text, completion().model_copy(update={"grammar": grammar}), "grammar")

    @pytest.mark.parametrize(("spec", "param"), [
        (completion("word " * 3 * CONTEXT), "prompt"), (chat("word " * 3 * CONTEXT), "messages")])
    def test_a_prompt_over_the_context_names_both_counts(self, text: Text, spec: TextSpec, param: str) -> None:
        failed = refused(text, spec, param)
        assert failed.code == "context_length_exceeded"
        numbers = [int(word) for word in failed.message.replace(",", " ").split() if word.isdigit()]
        assert CONTEXT in numbers and max(numbers) > CONTEXT

    def test_truncation_leaves_out_the_oldest_turns(self, text: Text) -> None:
        turns: list[Message] = [Message(role="system", content="Be brief.")]
        for number in range(40):
            turns += [Message(role="user", content=f"Question {number} " + "again " * 12),
                      Message(role="assistant", content=f"Answer {number}")]
        turns.append(Message(role="user", content="The last question."))
        long = chat(*turns, max_tokens=4)
        refused(text, long, "messages")
        run = text.run(long.model_copy(update={"truncation": "auto"}))
        assert isinstance(run.last, Finished)
        left_out = int(run.metrics["left_out_messages"])
        assert 0 < left_out < 80 and left_out % 2 == 0
        kept = text.run(chat(turns[0], *turns[1 + left_out:], max_tokens=4))
        assert (run.text, run.metrics["prompt_tokens"]) == (kept.text, kept.metrics["prompt_tokens"])
        more = chat(turns[0], *turns[left_out - 1:], max_tokens=4)
        assert text.run(more.model_copy(update={"truncation": "auto"})).metrics["left_out_messages"] == 2
        short = text.run(chat("Hello.", max_tokens=2).model_copy(update={"truncation": "auto"}))
        assert "left_out_messages" not in short.metrics
        last = chat(turns[0], "word " * 3 * CONTEXT).model_copy(update={"truncation": "auto"})
        assert refused(text, last, "messages").code == "context_length_exceeded"

    def test_cancel_within_one_token_frees_the_slot(self, text: Text) -> None:
        def watch(run: Run) -> None:
            if isinstance(run.last, TokenDelta) and sum(isinstance(event, TokenDelta) for event in run.events) == 3:
                assert run.engine.cancel(run.id)

        for _ in range(4):  # more than there are slots
            run = text.begin(completion(max_tokens=400, ignore_eos=True), watch).wait()
            assert run.last == Finished(reason="cancelled") and run.metrics["completion_tokens"] <= 4
            assert sum(isinstance(event, TokenDelta) for event in run.events) == 3
            assert not text.engine.cancel(run.id)

    def test_runs_side_by_side(self, text: Text) -> None:
        alone = [text.run(completion(f"{word} {PROMPT}")).text for word in ("a", "b", "c", "d", "e")]
        runs = [text.begin(completion(f"{word} {PROMPT}")) for word in ("a", "b", "c", "d", "e")]
        assert [run.wait().last.type for run in runs] == ["finished"] * 5
        same = sum(run.text == text for run, text in zip(runs, alone, strict=True))
        assert same >= 3  # batches round differently, so a tie may fall the other way

    def test_several_turns_of_one_role_and_no_system_message(self, text: Text) -> None:
        for turns in (("Hello.", "Are you there?"), ("Hi.", Message(role="assistant", content="Yes?"), "a", "b", "c")):
            assert isinstance(text.run(chat(*turns, max_tokens=2)).last, Finished)

    def test_an_assistant_s_text_is_continued(self, text: Text) -> None:
        begun = text.run(chat("Tell me a story.", max_tokens=12, ignore_eos=True))
        half = begun.text[:len(begun.text) // 2]
        run = text.run(chat("Tell me a story.", Message(role="assistant", content=half, prefix=True), max_tokens=4))
        fresh = text.run(chat("Tell me a story.", max_tokens=4))
        assert run.metrics["prompt_tokens"] > fresh.metrics["prompt_tokens"]

    def test_echo_gives_the_prompt_back(self, text: Text) -> None:
        run = text.run(CompletionSpec(prompt=PROMPT, echo=True, sampling=greedy(max_tokens=3)))
        assert run.text == PROMPT + text.run(completion(max_tokens=3)).text

    def test_min_tokens(self, text: Text) -> None:
        ended = completion(max_tokens=40, logit_bias={str(id): 100.0 for id in self.end_tokens(text)})
        assert text.run(ended).metrics["completion_tokens"] <= 1
        sampling = ended.sampling.model_copy(update={"min_tokens": 8})
        run = text.run(ended.model_copy(update={"sampling": sampling}))
        assert run.last == Finished(reason="stop") and 8 <= run.metrics["completion_tokens"] <= 9

    def end_tokens(self, text: Text) -> list[int]:
        """Ids of the tokens that end an answer."""
        raise NotImplementedError

    def test_scores_are_the_likelihoods_of_what_would_be_said(self, text: Text) -> None:
        run = text.run(chat("Hello.", max_tokens=1, ignore_eos=True, logprobs=20))
        told = next(event for event in run.events if isinstance(event, TokenDelta)).logprobs[0]
        options = [item for item in told.top if item.token.strip() and item.token.isascii()][:4]
        spec = ScoreSpec(messages=(Message(role="user", content="Hello."),),
                         options=tuple(item.token for item in options))
        scores = text.run(spec).data["logprobs"]
        for score, item in zip(scores, options, strict=True):
            assert score == pytest.approx(item.logprob, abs=0.05)

    @pytest.mark.parametrize(("change", "param"), [
        ({"adapters": (Adapter(id="no-such"),)}, "adapters"), ({"prompt": ""}, "prompt"),
        ({"prompt": (0, 2**40)}, "prompt"), ({"prompt": (-1,)}, "prompt"),
        ({"sampling": greedy(logit_bias={"99999999": 1.0})}, "logit_bias"),
        ({"sampling": greedy(logit_bias={"several words of text": 1.0})}, "logit_bias"),
        ({"sampling": greedy(min_tokens=3), "grammar": 'start: "a"'}, "min_tokens"),
    ])
    def test_bad_completions(self, text: Text, change: dict[str, object], param: str) -> None:
        refused(text, completion().model_copy(update=change), param)

    @pytest.mark.parametrize(("spec", "param"), [
        (chat(Message(role="user", content="x", prefix=True)), "messages[0].prefix"),
        (chat(Message(role="assistant", content="x", prefix=True), "y"), "messages[0].prefix"),
        (chat("x").model_copy(update={"reasoning_effort": "high"}), "reasoning_effort"),
    ])
    def test_bad_chats(self, text: Text, spec: ChatSpec, param: str) -> None:
        refused(text, spec, param)

    def test_a_spec_of_another_panel(self, text: Text) -> None:
        with pytest.raises(DiptychError, match="image"):
            text.engine.submit(RunRequest(id="x", spec=ImageSpec(prompt="a cat")), lambda event: None)

    def test_the_record_of_a_format_changes_nothing(self, text: Text) -> None:
        spec = chat("Hello.", max_tokens=4)
        noted = spec.model_copy(update={"format": OutputFormat(kind="json_object")})
        assert text.run(noted).text == text.run(spec).text
