"""Requests of OpenAI's API. Unknown fields are ignored; those that would change the answer and are not built yet are
here by name, so that they can be refused."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema, model_validator

from diptych.core.image_options import MAX_PROMPT, MAX_SEED, StyleName
from diptych.core.routes import MAX_TARGETS

ModelId = Annotated[str, Field(min_length=1, max_length=300, description="id of a model; /v1/models lists them")]
Flag = bool | None
Number = float | None
_TEXTS = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
_PARTS = {"anyOf": [{"type": "string"}, {"type": "null"}, {"type": "array", "items": {
    "type": "object", "required": ["type"],
    "properties": {"type": {"enum": ["text", "image_url"]}, "text": {"type": "string"}, "image_url": {
        "type": "object", "properties": {"url": {"type": "string", "description": "a data: URL, or http(s) where the "
                                                 "operator allows its host"}}}}}}]}
_PROMPT = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}},
                     {"type": "array", "items": {"type": "integer"}},
                     {"type": "array", "items": {"type": "array", "items": {"type": "integer"}}}]}
_OBJECTS: dict[str, Any] = {"type": "array", "items": {"type": "object"}}
_OBJECT: dict[str, Any] = {"type": "object"}
_DOCUMENTS: dict[str, Any] = {"type": "array", "items": {"anyOf": [{"type": "string"}, {"type": "object"}]}}
_CHOICE: dict[str, Any] = {"anyOf": [{"type": "string"}, {"type": "object"}]}


class Compatible(BaseModel):
    """Base of the bodies: JSON types as they are, further fields kept aside."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)

    @property
    def more(self) -> dict[str, Any]:
        """Fields that are not part of the model, as they were sent."""
        return self.__pydantic_extra__ or {}


class ChatMessage(Compatible):
    role: str = Field(max_length=100, description="system, developer, user, assistant, tool or function")
    content: Annotated[Any, WithJsonSchema(_PARTS)] = Field(None, description="text, or a list of parts")
    name: str | None = Field(None, max_length=200)
    tool_calls: Annotated[Any, WithJsonSchema(_OBJECTS)] = Field(None, description="what the assistant called")
    function_call: Annotated[Any, WithJsonSchema(_OBJECT)] = Field(None, description="the old form of tool_calls")
    tool_call_id: str | None = Field(None, max_length=200, description="the call that a tool's message answers")
    reasoning_content: str | None = Field(None, description="what the assistant thought")
    prefix: Flag = Field(None, description="the last message, the assistant's: the answer goes on from it")


class StreamOptions(Compatible):
    include_usage: Flag = Field(None, description="a last chunk with the token counts")


class Routed(Compatible):
    """Fields of requests that may be answered by one of several models."""

    models: list[ModelId] | None = Field(None, max_length=MAX_TARGETS, description=(
        "further models, asked in this order where model does not answer; the first one stands for a missing model"))

    @model_validator(mode="before")
    @classmethod
    def _first(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("model") is None:
            models = values.get("models")
            if isinstance(models, list) and models and isinstance(models[0], str):
                return {**values, "model": models[0]}
        return values


class Guarded(Routed):
    """Fields of requests that can ask for a guard; `api/tasks/guard_fields.py` reads them."""

    guard: Annotated[Any, WithJsonSchema({"anyOf": [{"type": "boolean"}, {"type": "object"}]})] = Field(
        None, description="true, or {model, threshold, thresholds, categories, input, output}: refuse what users say "
        "and hold back what is answered when moderation scores it too high")
    guardrails: Annotated[Any, WithJsonSchema(_OBJECTS)] = Field(
        None, description="Mistral's: [{moderation_llm_v2: {custom_category_thresholds, ignore_other_categories}}]; "
        "judges the input")


class SamplingFields(Guarded):
    """How tokens are chosen; for both kinds of text request."""

    temperature: Number = Field(None, ge=0.0, le=5.0, description="0: always the likeliest token")
    top_p: Number = Field(None, gt=0.0, le=1.0)
    top_k: int | None = Field(None, ge=0, le=1_000_000, description="0: all")
    min_p: Number = Field(None, ge=0.0, le=1.0)
    typical_p: Number = Field(None, gt=0.0, le=1.0)
    frequency_penalty: Number = Field(None, ge=-2.0, le=2.0)
    presence_penalty: Number = Field(None, ge=-2.0, le=2.0)
    repeat_penalty: Number = Field(None, gt=0.0, le=5.0, description="llama.cpp's name")
    repetition_penalty: Number = Field(None, gt=0.0, le=5.0, description="vLLM's name for repeat_penalty")
    repeat_last_n: int | None = Field(
        None, ge=-1, le=1_000_000, description="tokens that penalties look back; -1: all")
    dry_multiplier: Number = Field(None, ge=0.0, le=100.0, description="strength of the DRY penalty; 0: off")
    dry_base: Number = Field(None, ge=1.0, le=100.0)
    dry_allowed_length: int | None = Field(None, ge=0, le=1_000_000)
    dry_penalty_last_n: int | None = Field(None, ge=-1, le=1_000_000)
    dry_sequence_breakers: list[str] | None = Field(None, max_length=64)
    logit_bias: Annotated[Any, WithJsonSchema({"type": "object", "additionalProperties": {"type": "number"}})] = \
        Field(None, description="token id or text, and what is added to it, -100 to 100")
    seed: int | None = Field(None, ge=0, le=2**32 - 1)
    random_seed: int | None = Field(None, ge=0, le=2**32 - 1, description="Mistral's name for seed")
    max_tokens: int | None = Field(None, ge=1, le=1_000_000)
    min_tokens: int | None = Field(None, ge=0, le=1_000_000)
    ignore_eos: Flag = None
    stop: Annotated[Any, WithJsonSchema(_TEXTS)] = Field(None, description="up to 16 texts that end the answer")
    include_stop_str_in_output: Flag = Field(None, description="the stop text is part of the answer")
    stream: Flag = None
    stream_options: StreamOptions | None = None
    n: int | None = Field(None, ge=1, le=128, description="answers; their seeds are seed, seed + 1, …")
    repetition_stop: Flag = Field(
        None, description="whether an answer that goes round in circles is ended, with finish_reason repetition; "
        "true when left out")
    truncation: str | None = Field(
        None, max_length=100, description="auto: leave out the oldest turns of what does not fit; disabled: refuse it")
    adapters: Annotated[Any, WithJsonSchema(_OBJECTS)] = Field(
        None, description="LoRA adapters beside the model: [{id, weight}]")
    lora: Annotated[Any, WithJsonSchema(_OBJECTS)] = Field(None, description="llama.cpp's name: [{id, scale}]")
    response_format: Annotated[Any, WithJsonSchema(_OBJECT)] = Field(
        None, description="{type}: text, json_object, json_schema {json_schema: {schema}}, regex {pattern}, "
        "choice {choices}, lark or gbnf {grammar}, xml or yaml {schema}")
    grammar: str | None = Field(None, description="llama.cpp's and vLLM's name: a GBNF grammar")
    json_schema: Annotated[Any, WithJsonSchema(_OBJECT)] = Field(None, description="llama.cpp's name")
    guided_json: Annotated[Any, WithJsonSchema(_CHOICE)] = Field(None, description="vLLM's names, this and below")
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None
    structured_outputs: Annotated[Any, WithJsonSchema(_OBJECT)] = Field(
        None, description="{json, regex, choice, grammar or json_object}")


class ChatRequest(SamplingFields):
    model_config = ConfigDict(json_schema_extra={"examples": [{
        "model": "starter-text", "messages": [{"role": "user", "content": "What is the capital of France?"}],
        "temperature": 0, "max_tokens": 64}]})

    model: ModelId
    messages: list[ChatMessage] = Field(min_length=1, max_length=10_000)
    max_completion_tokens: int | None = Field(None, ge=1, le=1_000_000)
    logprobs: Flag = Field(None, description="tell each token's probability")
    top_logprobs: int | None = Field(None, ge=0, le=20, description="and so many others at its place")
    tools: Annotated[Any, WithJsonSchema(_OBJECTS)] = None
    tool_choice: Annotated[Any, WithJsonSchema(_CHOICE)] = Field(
        None, description="none, auto, required, or {type: function, function: {name}}")
    parallel_tool_calls: Flag = None
    functions: Annotated[Any, WithJsonSchema(_OBJECTS)] = Field(None, description="the old form of tools")
    function_call: Annotated[Any, WithJsonSchema(_CHOICE)] = Field(None, description="the old form of tool_choice")
    reasoning_effort: str | None = Field(None, max_length=100, description="none, minimal, low, medium or high")
    chat_template_kwargs: dict[str, Any] | None = Field(None, description="variables of the model's template")
    continue_final_message: Flag = Field(None, description="vLLM's name for prefix of the last message")
    documents: Annotated[Any, WithJsonSchema(_DOCUMENTS)] = Field(
        None, description="what the answer is to rest on: texts, or objects {id, title, text}, or Cohere's {id, data}")
    collection: Annotated[Any, WithJsonSchema(_CHOICE)] = Field(
        None, description="a collection whose passages are looked up: its name, or {name, top_k, mode}")
    citations: str | None = Field(None, max_length=100, description=(
        "where the answer has it from: auto, checked afterwards; quote: the answer quotes, word by word, and the "
        "grammar sees to it; off"))
    citation_options: Annotated[Any, WithJsonSchema(_OBJECT)] = Field(
        None, description="Cohere's: {mode: fast, accurate, enabled, off or disabled}")
    safe_prompt: Flag = Field(None, description="Mistral's: begin with an instruction to be careful and respectful")


class CompletionRequest(SamplingFields):
    model_config = ConfigDict(json_schema_extra={"examples": [{
        "model": "starter-text", "prompt": "The capital of France is", "temperature": 0, "max_tokens": 8}]})

    model: ModelId
    prompt: Annotated[Any, WithJsonSchema(_PROMPT)] = Field(
        description="the text to continue, a list of texts, the tokens of one, or a list of these")
    suffix: str | None = Field(None, description="the text behind the gap that is to be filled")
    echo: Flag = Field(None, description="begin the answer with the prompt")
    best_of: int | None = Field(None, ge=1, le=128, description="make so many, and give the n likeliest")
    logprobs: int | None = Field(None, ge=0, le=20, description="tell each token's probability and so many others")


class ImageRequest(Compatible):
    """OpenAI's fields, and Diptych's own from `negative_prompt` on."""

    model_config = ConfigDict(json_schema_extra={"examples": [
        {"model": "starter", "prompt": "a red apple on a blue background", "n": 2, "response_format": "b64_json"},
        {"prompt": "a green cat", "size": "128x128", "stream": True, "partial_images": 2, "seed": 7}]})

    prompt: str = Field(min_length=1, max_length=MAX_PROMPT)
    model: Annotated[str | None, Field(min_length=1, max_length=300)] = Field(
        None, description="id of an image model; `starter` when left out")
    n: int | None = Field(None, ge=1, le=64, description="pictures")
    size: str | None = Field(
        None, max_length=20, description="WIDTHxHEIGHT in pixels; auto: the model's own")
    response_format: str | None = Field(None, max_length=100, description="url (the default) or b64_json")
    stream: Flag = Field(None, description="answer with server-sent events; pictures are then always b64_json")
    partial_images: int | None = Field(None, ge=0, le=3, description="looks at each picture before it is done")
    negative_prompt: str | None = Field(None, max_length=MAX_PROMPT)
    steps: int | None = Field(None, ge=1, le=1000)
    guidance: Number = Field(None, ge=1.0, le=50.0, description="guidance scale (CFG)")
    sampler: str | None = Field(None, max_length=100, description="A1111's name, e.g. DPM++ 2M")
    schedule: str | None = Field(None, max_length=100, description="noise schedule, as in docs/samplers.md")
    seed: int | None = Field(None, ge=-1, le=MAX_SEED)
    clip_skip: int | None = Field(None, ge=1, le=24, description="layer of CLIP that is used, counted from the last")
    styles: list[StyleName] | None = Field(None, max_length=16, description="styles put around the prompt")
    prompt_syntax: Literal["full", "plain"] | None = Field(
        None, description="full (the default): the prompt language; plain: prompts are just words")


class EditRequest(ImageRequest):
    """OpenAI's fields, in a form with the files `image` and `mask`, and Diptych's own from `negative_prompt` on."""

    model_config = ConfigDict(json_schema_extra={"examples": [
        {"prompt": "a green apple", "n": 2, "response_format": "b64_json"},
        {"prompt": "a hat", "strength": 0.8, "mask_blur": 2.0, "mask_region": "masked"}]})

    size: str | None = Field(
        None, max_length=20, description="WIDTHxHEIGHT in pixels; auto: that of the picture, see docs/pictures.md")
    strength: Number = Field(None, ge=0.0, le=1.0, description=(
        "how far the result may go from the picture; 1 when left out, 0.75 without a mask"))
    mask_blur: Number = Field(None, ge=0.0, le=64.0, description="sigma in pixels of the mask's soft edge")
    mask_region: Literal["whole", "masked"] | None = Field(
        None, description="masked: only the mask's surroundings are painted, at full size")
    mask_padding: int | None = Field(None, ge=0, le=1024, description="pixels around the mask with mask_region masked")


class VariationRequest(ImageRequest):
    """OpenAI's fields, sent as a form with the file `image`, and Diptych's own from `negative_prompt` on."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"n": 2, "size": "auto"}, {"strength": 0.4}]})

    prompt: str | None = Field(  # type: ignore[assignment]
        None, min_length=1, max_length=MAX_PROMPT, description="that of the picture, if it was made here, or none")
    strength: Number = Field(None, ge=0.0, le=1.0, description="how far to go from the picture; 0.6 when left out")
