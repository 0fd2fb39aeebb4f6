"""What the model gets equals mistral-common's encoding, token by token; and llama.cpp's own reading of the vocabulary
agrees with mistral-common's on text."""

from __future__ import annotations

import base64
import io
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tekken
import tiny
from mistral_common.guidance.grammar_factory import GrammarFactory
from mistral_common.protocol.fim.request import FIMRequest
from mistral_common.protocol.instruct.request import ChatCompletionRequest
from mistral_common.tokens.tokenizers import image as mistral_image
from mistral_common.tokens.tokenizers.mistral import MistralTokenizer
from PIL import Image
from text_runs import Text

from diptych.core.chat import ImagePart, Message, TextPart, Tool, ToolCall
from diptych.core.events import Failed, Finished
from diptych.core.protocol import LoadRequest
from diptych.core.specs import ChatSpec, CompletionSpec, Sampling
from diptych.engines.text.llamacpp import LlamaCppEngine
from diptych.engines.text.render import Prompt, Renderer
from diptych.library.identify import identify_gguf

VERSIONS = ("v3", "v7", "v11")
TEXTS = ("Hello, wörld!", "  two  spaces\n\n\tand a tab ", "don't it's we'll I'M", "1234567890 3.14 0x1F",
         "🦜🎉 日本語 русский", "CamelCaseWord snake_case", "def f(x):\n    return x**2  # ok\n",
         "…—“quotes”", "a\u0301 e\u0301")
WEATHER = Tool(name="weather", description="The weather in a city.", strict=True, parameters={
    "type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}, "required": ["city"],
    "additionalProperties": False})


def reference(version: str, folder: Path) -> MistralTokenizer[Any, Any, Any, Any, Any]:
    """mistral-common's own tokenizer, loaded from a file in its own format with this version's control tokens."""
    data = json.loads(tekken.DATA.read_text("utf-8"))
    data["config"]["version"] = version
    data["special_tokens"] = [{"rank": rank, "token_str": name, "is_control": True}
                              for rank, name in enumerate(tekken.control_tokens(version))]
    data["image"] = {"image_patch_size": 16, "max_image_size": 1024}
    path = folder / f"tekken_{version}.json"
    path.write_text(json.dumps(data), "utf-8")
    return MistralTokenizer.from_file(path)


class Pair:
    """Our engine on a tiny model of one version, and mistral-common's tokenizer of that version."""

    def __init__(self, version: str, folder: Path) -> None:
        model = tiny.mistral(version)
        tiny.projector(model)
        card = identify_gguf(model)
        assert card is not None and card.tokenizer == f"mistral-{version}" and card.dialect == "mistral"
        assert card.vision and card.tools
        self.engine = LlamaCppEngine()
        self.engine.load(LoadRequest(card=card, threads=1, options={"slots": 2, "context": 1024}))
        self.text = Text(self.engine)
        self.theirs = reference(version, folder)
        assert self.engine._loaded is not None
        self.loaded = self.engine._loaded
        self.renderer = Renderer(self.loaded)

    def ours(self, *messages: Message, tools: tuple[Tool, ...] = ()) -> Prompt:
        return self.renderer.chat(ChatSpec(messages=messages, tools=tools))

    def expected(self, messages: list[dict[str, Any]], tools: tuple[Tool, ...] = ()) -> list[int]:
        functions = [{"type": "function", "function": {
            "name": tool.name, "description": tool.description, "parameters": tool.parameters, "strict": tool.strict,
        }} for tool in tools]
        request: ChatCompletionRequest[Any] = ChatCompletionRequest.from_openai(
            messages, tools=functions or None, continue_final_message=messages[-1]["role"] == "assistant")
        return list(self.theirs.encode_chat_completion(request).tokens)


@pytest.fixture(scope="module", params=VERSIONS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    made = Pair(request.param, tmp_path_factory.mktemp("tekken"))
    yield made
    made.engine.close()


def user(text: str) -> tuple[Message, dict[str, Any]]:
    return Message(role="user", content=text), {"role": "user", "content": text}


def test_chat_and_system(pair: Pair) -> None:
    for system in ("", "You are terse. [INST] is no token here."):
        for text in (*TEXTS, "a [/INST] b </s> c [TOOL_CALLS]"):
            ours, theirs = user(text)
            before = [Message(role="system", content=system)] if system else []
            given = [{"role": "system", "content": system}] if system else []
            more = [Message(role="assistant", content="Yes."), Message(role="user", content="And?")]
            expected = pair.expected([*given, theirs, {"role": "assistant", "content": "Yes."},
                                      {"role": "user", "content": "And?"}])
            assert list(pair.ours(*before, ours, *more).tokens) == expected


def test_a_begun_answer_and_two_user_turns(pair: Pair) -> None:
    prefix = Message(role="assistant", content="Once", prefix=True)
    assert list(pair.ours(user("Go.")[0], prefix).tokens) == pair.expected(
        [user("Go.")[1], {"role": "assistant", "content": "Once"}])
    assert pair.ours(user("a")[0], user("b")[0]).tokens == pair.ours(user("a\n\nb")[0]).tokens


@pytest.mark.parametrize("id", ["abcDEF123", "call_8f1b0a9c-foreign"])
def test_tools_calls_and_results(pair: Pair, id: str) -> None:
    arguments = '{"city": "Paris", "days": 2}'
    ours = (user("Weather?")[0],
            Message(role="assistant", tool_calls=(ToolCall(id=id, name="weather", arguments=arguments),)),
            Message(role="tool", tool_call_id=id, name="weather", content='{"sky": "blue"}'),
            Message(role="assistant", content="Blue."), Message(role="user", content="Sure?"))
    known = id if len(id) == 9 else pair.renderer._prepared(ours)[1].tool_calls[0].id
    assert len(known) == 9 and known.isalnum()
    theirs = [user("Weather?")[1],
              {"role": "assistant", "tool_calls": [
                  {"id": known, "type": "function", "function": {"name": "weather", "arguments": arguments}}]},
              {"role": "tool", "tool_call_id": known, "name": "weather", "content": '{"sky": "blue"}'},
              {"role": "assistant", "content": "Blue."}, {"role": "user", "content": "Sure?"}]
    assert list(pair.ours(*ours, tools=(WEATHER,)).tokens) == pair.expected(theirs, (WEATHER,))
    assert list(pair.ours(*ours[:3], tools=(WEATHER,)).tokens) == pair.expected(theirs[:3], (WEATHER,))


def test_an_answer_of_a_tool_without_an_id_gets_that_of_its_call(pair: Pair) -> None:
    call = Message(role="assistant", tool_calls=(ToolCall(id="x", name="weather", arguments="not JSON"),))
    bare = pair.ours(user("?")[0], call, Message(role="tool", content="1"), tools=(WEATHER,))
    named = pair.ours(user("?")[0], call, Message(role="tool", content="1", tool_call_id="x", name="weather"),
                      tools=(WEATHER,))
    assert bare.tokens == named.tokens


def test_a_gap_to_fill(pair: Pair) -> None:
    spec = CompletionSpec(prompt="def f(x):\n    ", suffix="\n    return y", sampling=Sampling(max_tokens=2))
    expected = pair.theirs.encode_fim(FIMRequest(prompt=str(spec.prompt), suffix=spec.suffix)).tokens
    assert list(pair.renderer.completion(spec).tokens) == expected
    run = pair.text.run(spec)
    assert isinstance(run.last, Finished) and run.metrics["prompt_tokens"] == len(expected)


def picture(color: str) -> ImagePart:
    file = io.BytesIO()
    Image.new("RGB", (64, 64), color).save(file, "PNG")
    return ImagePart(data=base64.b64encode(file.getvalue()).decode())


def test_pictures(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    # mistral-common needs OpenCV to resize; only the tokens matter here, and they come from its own code.
    monkeypatch.setattr(mistral_image, "transform_image", lambda image, size: np.zeros((3, *size)))
    red = picture("red")
    content = (TextPart(text="What is "), red, TextPart(text="this?"))
    given = [{"type": "text", "text": "What is "},
             {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{red.data}"}},
             {"type": "text", "text": "this?"}]
    prompt = pair.ours(Message(role="user", content=content))
    expected = pair.expected([{"role": "user", "content": given}])
    names = tekken.control_tokens("v3")
    drawn = {names.index(name) for name in ("[IMG]", "[IMG_BREAK]", "[IMG_END]")}
    before, _, after = prompt.text.partition(pair.loaded.marker)
    tokens = pair.loaded.listener.tokens
    sent = [*tokens(before, begin=True), *tokens(after)]
    assert sent == [token for token in expected if token not in drawn]
    assert sum(token in drawn for token in expected) == 20  # 4 rows of 4 patches, each with its break
    runs = [pair.text.run(ChatSpec(messages=(Message(role="user", content=(TextPart(text="?"), picture(color))),),
                                   sampling=Sampling(temperature=0, max_tokens=6))) for color in ("red", "blue")]
    assert all(isinstance(run.last, Finished) for run in runs)
    assert runs[0].text != runs[1].text  # the model sees them
    assert runs[0].metrics["prompt_tokens"] == len(pair.ours(user("?")[0]).tokens) + tiny.PICTURE_TOKENS


def test_llama_cpp_reads_the_vocabulary_as_mistral_common_does(pair: Pair) -> None:
    rng = random.Random(4)
    letters = "abc ABC  \n\t.,!?'’123éüñ日本語🦜_-()[]{}\"#/\\"
    texts = [*TEXTS, *("".join(rng.choice(letters) for _ in range(40)) for _ in range(100))]
    encode = pair.theirs.instruct_tokenizer.tokenizer.encode
    different = [text for text in texts
                 if pair.loaded.listener.tokens(text, special=False) != encode(text, bos=False, eos=False)]
    assert not different


def test_the_count_that_the_model_reports_is_that_of_the_prompt(pair: Pair) -> None:
    run = pair.text.run(ChatSpec(messages=(user("Hi [INST] there")[0],), sampling=Sampling(max_tokens=1)))
    assert run.metrics["prompt_tokens"] == len(pair.expected([user("Hi [INST] there")[1]]))


def test_what_mistral_common_refuses_is_a_400(pair: Pair) -> None:
    run = pair.text.run(ChatSpec(messages=(user("a")[0], Message(role="assistant", content="b"))))
    assert isinstance(run.last, Failed) and (run.last.status, run.last.param) == (400, "messages")
    run = pair.text.run(ChatSpec(messages=(user("a")[0],), template_options={"x": 1}))
    assert isinstance(run.last, Failed) and (run.last.status, run.last.param) == (400, "template_options")


def test_mistral_s_own_grammar_makes_a_call(pair: Pair) -> None:
    factory_works = GrammarFactory.is_supported(pair.theirs)
    assert factory_works == (pair.theirs.version.value == "v11")
    if not factory_works:
        return
    factory = GrammarFactory(pair.theirs)
    request: ChatCompletionRequest[Any] = ChatCompletionRequest.from_openai(
        [user("Weather?")[1]], tools=[{"type": "function", "function": {
            "name": "weather", "description": "", "strict": True, "parameters": {
                "type": "object", "properties": {"days": {"enum": [1, 2]}}, "required": ["days"],
                "additionalProperties": False, "x-guidance": {"whitespace_flexible": False}}}}],
        tool_choice="required", parallel_tool_calls=False)
    grammar = factory.get_grammar_for_chat_request(request, factory.select_jinja_template())
    assert grammar is not None
    run = pair.text.run(ChatSpec(messages=(user("Weather?")[0],), tools=(WEATHER,), grammar=grammar,
                                 sampling=Sampling(temperature=0, max_tokens=60)))
    assert run.text.startswith("[TOOL_CALLS]") and "[ARGS]" in run.text, run.text
    name, _, arguments = run.text.removeprefix("[TOOL_CALLS]").partition("[ARGS]")
    assert name.strip() == "weather" and json.loads(arguments)["days"] in (1, 2)
