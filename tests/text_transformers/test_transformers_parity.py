"""Our decode loop against transformers' own `generate`, and prompts against mistral-common and chat templates."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("transformers")

import tiny_hf
import torch
import transformers
from mistral_common.protocol.instruct.chunk import ImageChunk, TextChunk
from mistral_common.protocol.instruct.messages import UserMessage
from mistral_common.protocol.instruct.request import ChatCompletionRequest
from mistral_common.tokens.tokenizers.mistral import MistralTokenizer
from PIL import Image
from text_runs import CONTEXT, Text

from diptych.core.chat import ImagePart, Message, TextPart
from diptych.core.events import Failed, TokenDelta
from diptych.core.protocol import LoadRequest
from diptych.core.specs import ChatSpec, CompletionSpec, Sampling
from diptych.engines.transformers.engine import TransformersEngine
from diptych.library.text_folder import identify_text_folder

PROMPTS = ((5, 9, 30, 77, 12), (100, 101, 102), tuple(range(20, 220)))
LENGTH = 24
Load = Callable[[Path], Text]


@pytest.fixture(scope="module")
def load() -> Iterator[Load]:
    engines: dict[Path, TransformersEngine] = {}

    def loaded(folder: Path) -> Text:
        if folder not in engines:
            engines[folder] = TransformersEngine()
            engines[folder].load(LoadRequest(card=identify_text_folder(folder), threads=1,
                                             options={"slots": 3, "context": CONTEXT}))
        return Text(engines[folder])

    yield loaded
    for engine in engines.values():
        engine.close()


def reference(folder: Path, prompt: tuple[int, ...]) -> tuple[list[int], np.ndarray]:
    """Ids and log-probabilities of transformers' greedy answer."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    made = model.generate(
        torch.tensor([prompt]), max_new_tokens=LENGTH, min_new_tokens=LENGTH, do_sample=False,
        return_dict_in_generate=True, output_logits=True)
    ids = made.sequences[0, len(prompt):].tolist()
    logs = torch.stack(made.logits, 1)[0].log_softmax(-1)
    return ids, np.array([logs[place, id].item() for place, id in enumerate(ids)])


def answer(text: Text, prompts: tuple[tuple[int, ...], ...]) -> list[list[tuple[bytes, float]]]:
    runs = [text.begin(CompletionSpec(prompt=prompt, sampling=Sampling(
        temperature=0.0, max_tokens=LENGTH, ignore_eos=True, logprobs=0))) for prompt in prompts]
    return [[(bytes(item.bytes or ()), item.logprob) for event in run.wait().events if isinstance(event, TokenDelta)
             for item in event.logprobs] for run in runs]


@pytest.mark.parametrize("make", [tiny_hf.llama, tiny_hf.mistral])
def test_the_tokens_and_probabilities_of_generate(load: Load, make: Callable[[], Path]) -> None:
    """One at a time, then all at once: those share forward passes."""
    text = load(make())
    vocabulary = text.engine._loaded.vocabulary  # type: ignore[attr-defined]
    expected = [reference(make(), prompt) for prompt in PROMPTS]
    alone = [answer(text, (prompt,))[0] for prompt in PROMPTS]
    for told in (alone, answer(text, PROMPTS)):
        for (ids, logs), found in zip(expected, told, strict=True):
            assert [data for data, _ in found] == [vocabulary.bytes_of(id) for id in ids]
            assert np.allclose([log for _, log in found], logs, atol=1e-4)


def test_a_chat_template_makes_the_prompt(load: Load) -> None:
    text = load(tiny_hf.llama())
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_hf.llama())
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello. <|im_end|>"}]
    expected = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
    prompt = text.engine._decoder._prompts.chat(ChatSpec(  # type: ignore[attr-defined]
        messages=tuple(Message.model_validate(turn) for turn in turns)))
    assert list(prompt.tokens) == expected


def picture(width: int, height: int, colour: tuple[int, int, int]) -> ImagePart:
    file = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(file, "PNG")
    return ImagePart(data=base64.b64encode(file.getvalue()).decode())


@pytest.mark.parametrize("sizes", [((60, 40),), ((300, 100), (50, 50))])
def test_prompts_with_pictures_are_mistral_common_s(load: Load, sizes: tuple[tuple[int, int], ...]) -> None:
    text = load(tiny_hf.mistral3())
    parts = [picture(*size, (200, 30, 30)) for size in sizes]
    spec = ChatSpec(messages=(Message(role="user", content=(TextPart(text="What is this?"), *parts)),))
    prompts = text.engine._decoder._prompts  # type: ignore[attr-defined]
    prompt = prompts.chat(spec)
    request: ChatCompletionRequest = ChatCompletionRequest(messages=[UserMessage(content=[
        TextChunk(text="What is this?"), *(ImageChunk(image=Image.new("RGB", size)) for size in sizes)])])
    tokenizer = MistralTokenizer.from_file(tiny_hf.mistral3() / "tekken.json")
    # The pixels need OpenCV there; the tokens do not depend on them.
    encoder = tokenizer.instruct_tokenizer.image_encoder
    shapes = [encoder._image_to_num_tokens(Image.new("RGB", size)) for size in sizes]
    expected_images = sum((columns + 1) * rows for columns, rows in shapes)
    counted = [token for token in prompt.tokens if token in (10, 12, 13)]
    assert len(counted) == expected_images and counted.count(13) == len(sizes)
    assert [array.shape[1:] for array in prompts.pixels(prompt)] == [
        (rows * 28, columns * 28) for columns, rows in shapes]
    try:
        expected = tokenizer.encode_chat_completion(request).tokens
    except ImportError:
        return
    assert list(prompt.tokens) == list(expected)


def test_pixels_are_those_of_transformers(load: Load) -> None:
    """Against transformers' own processor of Pixtral, which does without torchvision."""
    from transformers.models.pixtral.image_processing_pil_pixtral import PixtralImageProcessorPil

    prompts = load(tiny_hf.mistral3()).engine._decoder._prompts  # type: ignore[attr-defined]
    rng = np.random.default_rng(1)
    image = Image.fromarray(rng.integers(0, 255, (84, 112, 3), dtype=np.uint8))
    file = io.BytesIO()
    image.save(file, "PNG")
    part = ImagePart(data=base64.b64encode(file.getvalue()).decode())
    ours = prompts.pixels(prompts.chat(ChatSpec(messages=(Message(role="user", content=(part,)),))))[0]
    processor = PixtralImageProcessorPil(size={"longest_edge": 112}, patch_size={"height": 28, "width": 28})
    theirs = np.asarray(processor(image, return_tensors="np")["pixel_values"][0])
    assert ours.shape == theirs.shape and np.abs(ours - theirs).max() < 1e-4


def test_an_answer_depends_on_the_picture(load: Load) -> None:
    text = load(tiny_hf.mistral3())

    def logprob(*parts: object) -> float:
        spec = ChatSpec(messages=(Message(role="user", content=(TextPart(text="Look:"), *parts)),),  # type: ignore
                        sampling=Sampling(temperature=0.0, max_tokens=3, ignore_eos=True, logprobs=0))
        run = text.run(spec)
        return next(item.logprob for event in run.events if isinstance(event, TokenDelta) for item in event.logprobs)

    red, blue = picture(60, 40, (250, 0, 0)), picture(60, 40, (0, 0, 250))
    assert logprob(red) == logprob(red) != logprob(blue)
    assert logprob(red, blue) != logprob(blue, red)


def test_the_picture_s_answer_is_that_of_generate(load: Load) -> None:
    text, model = load(tiny_hf.mistral3()), transformers.AutoModelForImageTextToText.from_pretrained(
        tiny_hf.mistral3(), dtype=torch.float32).eval()
    prompts = text.engine._decoder._prompts  # type: ignore[attr-defined]
    spec = ChatSpec(
        messages=(Message(role="user", content=(picture(100, 40, (9, 200, 3)), picture(30, 60, (90, 20, 200)))),),
        sampling=Sampling(temperature=0.0, max_tokens=8, ignore_eos=True, logprobs=0))
    prompt = prompts.chat(spec)
    arrays = prompts.pixels(prompt)
    height, width = (max(array.shape[side] for array in arrays) for side in (1, 2))
    pixels = np.zeros((len(arrays), 3, height, width), np.float32)
    for row, array in enumerate(arrays):
        pixels[row, :, :array.shape[1], :array.shape[2]] = array
    made = model.generate(
        torch.tensor([prompt.tokens]), pixel_values=torch.tensor(pixels), max_new_tokens=8, min_new_tokens=8,
        image_sizes=torch.tensor([array.shape[1:] for array in arrays]), do_sample=False)
    vocabulary = text.engine._loaded.vocabulary  # type: ignore[attr-defined]
    told = [bytes(item.bytes or ()) for event in text.run(spec).events if isinstance(event, TokenDelta)
            for item in event.logprobs]
    assert told == [vocabulary.bytes_of(id) for id in made[0, len(prompt.tokens):].tolist()]


def test_a_model_without_eyes_says_so(load: Load) -> None:
    spec = ChatSpec(messages=(Message(role="user", content=(picture(9, 9, (1, 2, 3)),)),))
    try:
        last = load(tiny_hf.llama()).run(spec).last
    except Exception as error:
        assert "cannot see pictures" in str(error)
    else:
        assert isinstance(last, Failed) and "cannot see pictures" in last.message
