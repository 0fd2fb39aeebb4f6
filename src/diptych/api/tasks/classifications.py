"""`POST /v1/classifications`, and of conversations `/v1/chat/classifications`."""

from __future__ import annotations

import asyncio
import secrets
from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import ConfigDict, Field, WithJsonSchema
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from diptych.api.body import json_body
from diptych.api.docs import body_of
from diptych.api.openai.checked import same
from diptych.api.openai.schema import Compatible, Flag, Number
from diptych.api.services import Caller, Having, Services
from diptych.api.streams import attended
from diptych.api.tasks.classify import Found, logits, question_of, texts_in
from diptych.api.tasks.data import by_target, text_card
from diptych.api.tasks.talks import TALKS, talks_in
from diptych.core.cards import Card
from diptych.core.errors import InvalidRequest
from diptych.text.calibrate import Scale
from diptych.text.classify import Question, independent, probabilities
from diptych.text.classify_store import Classifier, ClassifierStore

router = APIRouter(prefix="/v1", tags=["Mistral"])
PREFIX = "classifier:"
TARGET = "label"
_TEXTS = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
_LABELS = {"type": "array", "items": {"anyOf": [{"type": "string"}, {"type": "object", "properties": {
    "name": {"type": "string"}, "description": {"type": "string"}}}]}}
_EXAMPLES = {"type": "array", "items": {"type": "object", "properties": {
    "text": {"type": "string"}, "label": {"type": "string"}, "labels": {"type": "array", "items": {"type": "string"}}}}}


class LabelFields(Compatible):
    labels: Annotated[Any, WithJsonSchema(_LABELS)] = Field(None, description="names, or objects with a description")
    examples: Annotated[Any, WithJsonSchema(_EXAMPLES)] = Field(None, description="texts whose labels are known")
    instructions: str | None = Field(None, max_length=20_000, description="what to look at")
    multi_label: Flag = Field(None, description="any number of labels may fit; each has a probability of its own")


class LabelledRequest(LabelFields):
    model: Annotated[str | None, Field(min_length=1, max_length=300)] = Field(
        None, description="id of a model, or classifier:NAME")
    classifier: str | None = Field(None, min_length=1, max_length=200, description="a calibrated one, by its name")
    temperature: Number = Field(None, gt=0.0, le=1000.0, description="over 1: less sure; instead of a calibrated one")
    threshold: Number = Field(None, ge=0.0, le=1.0, description="of multi_label; 0.5 when left out")


class ClassificationsRequest(LabelledRequest):
    model_config = ConfigDict(json_schema_extra={"examples": [{
        "model": "starter-text", "input": "I love this film!", "labels": ["positive", "negative"]}]})

    input: Annotated[Any, WithJsonSchema(_TEXTS)] = Field(None, description="up to 256 texts")
    inputs: Annotated[Any, WithJsonSchema(_TEXTS)] = Field(None, description="another name of input")


class ChatClassificationsRequest(LabelledRequest):
    model_config = ConfigDict(json_schema_extra={"examples": [{
        "model": "starter-text", "labels": ["question", "complaint"], "input": {"messages": [
            {"role": "user", "content": "My parcel is broken. Do something!"}]}}]})

    input: Annotated[Any, WithJsonSchema(TALKS)] = Field(
        None, description="a conversation ({messages}, or a list of messages), or up to 256 of them")
    inputs: Annotated[Any, WithJsonSchema(TALKS)] = Field(None, description="another name of input")
    messages: Annotated[Any, WithJsonSchema({"type": "array", "items": {"type": "object"}})] = Field(
        None, description="one conversation, as chat takes it")


@router.post("/classifications", openapi_extra=body_of(ClassificationsRequest))
async def classifications(
    request: Request, services: Having, caller: Caller,
    body: Annotated[ClassificationsRequest, json_body(ClassificationsRequest)],
) -> Response:
    """How probable each label is for each text, by the likelihoods that the model gives them."""
    name = "input" if body.inputs is None else "inputs"
    given = same(body, "input", "inputs")
    texts = [(name if isinstance(given, str) else f"{name}[{index}]", text)
             for index, text in enumerate(texts_in(given, name))]
    return JSONResponse(await attended(request, _answer(services, body, texts, caller)))


@router.post("/chat/classifications", openapi_extra=body_of(ChatClassificationsRequest))
async def chat_classifications(
    request: Request, services: Having, caller: Caller,
    body: Annotated[ChatClassificationsRequest, json_body(ChatClassificationsRequest)],
) -> Response:
    """The same for conversations, each taken as a whole."""
    given = [(name, value) for name in ("input", "inputs", "messages") if (value := getattr(body, name)) is not None]
    if len(given) > 1:
        raise InvalidRequest(f"{given[0][0]} is there too; give one of them", param=given[1][0])
    name, value = given[0] if given else ("input", None)
    return JSONResponse(await attended(request, _answer(services, body, talks_in(value, name), caller)))


async def _answer(
    services: Services, body: LabelledRequest, texts: list[tuple[str, str]], caller: str,
) -> dict[str, Any]:
    """`texts`: what the client calls each, and the text."""
    classifier = await _classifier(services, body, caller)
    if classifier is None:
        if body.model is None:
            raise InvalidRequest("model is missing", param="model", code="missing_required_parameter")
        question = question_of(body.labels, body.examples, body.instructions, body.multi_label is True)
        model, scale = body.model, Scale()
    else:
        question, model, scale = classifier.question, classifier.model, classifier.scale
    if body.threshold is not None and not question.multi:
        raise InvalidRequest("threshold is for multi_label: of other labels the likeliest is told", param="threshold")
    if body.temperature is not None:
        scale = Scale(body.temperature)

    async def work(model: str) -> tuple[Card, Found]:
        card = await text_card(services, model)
        return card, await logits(
            services, card, question, [text for _, text in texts], caller, lambda index: texts[index][0])

    # A calibration holds for the model that it was made with, and for no other.
    card, found = await (by_target(services, model, work) if classifier is None else work(model))
    results = [{TARGET: told(question, one, scale, body.threshold)} for one in found.logits]
    return {"id": f"clas-{secrets.token_hex(12)}", "object": "classification", "model": card.id, "results": results,
            "calibration": None if classifier is None else _calibration(classifier),
            "usage": {"prompt_tokens": found.tokens, "completion_tokens": 0, "total_tokens": found.tokens}}


def told(question: Question, logits: tuple[float, ...], scale: Scale, threshold: float | None) -> dict[str, Any]:
    """Mistral's `scores`, and beside them the label or labels that they mean."""
    names = [label.name for label in question.labels]
    if question.multi:
        scores = dict(zip(names, independent(logits, scale.temperature, scale.bias), strict=True))
        least = 0.5 if threshold is None else threshold
        return {"scores": scores, "labels": [name for name, score in scores.items() if score >= least]}
    scores = dict(zip(names, probabilities(logits, scale.temperature), strict=True))
    return {"scores": scores, "label": max(names, key=lambda name: scores[name])}


async def _classifier(services: Services, body: LabelledRequest, caller: str) -> Classifier | None:
    name = body.classifier
    if body.model is not None and body.model.startswith(PREFIX):
        if name is not None:
            raise InvalidRequest("model names a classifier too; give one of them", param="classifier")
        name = body.model[len(PREFIX):]
    elif name is not None and body.model is not None:
        raise InvalidRequest("a classifier has its model: leave model out", param="model")
    if name is None:
        return None
    for field in ("labels", "examples", "instructions", "multi_label"):
        if getattr(body, field) is not None:
            raise InvalidRequest(f"{field}: a classifier has its own, leave it out", param=field)
    return await asyncio.to_thread(ClassifierStore(services.settings.data_dir).get, caller, name)


def _calibration(classifier: Classifier) -> dict[str, Any]:
    return {"classifier": classifier.name, "temperature": classifier.scale.temperature, "bias": classifier.scale.bias,
            "ece": classifier.after.ece}
