"""`/api/classifiers`: labels whose probabilities were calibrated on texts with known labels."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from datetime import datetime, timezone
from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import ConfigDict, Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from diptych.api.body import json_body, parse_json
from diptych.api.docs import body_of
from diptych.api.errors import shown
from diptych.api.native.schema import Body
from diptych.api.services import Caller, Having, Services
from diptych.api.streams import attended
from diptych.api.tasks.classify import example_of, logits, question_of
from diptych.api.tasks.data import text_card
from diptych.core.errors import InvalidRequest
from diptych.core.image_options import ModelId
from diptych.text.calibrate import Scale, fit_multi, fit_single, quality_multi, quality_single, split
from diptych.text.classify import Example, Question
from diptych.text.classify_store import Classifier, ClassifierStore

router = APIRouter(prefix="/api/classifiers", tags=["tasks"])
LEAST, MOST = 4, 5000
"""Texts with known labels."""
NAME = r"^[a-z0-9][a-z0-9_-]{0,63}$"


class ClassifierRequest(Body):
    """What is known in advance (`labels` …, as for /v1/classifications), and texts to calibrate on."""

    model_config = ConfigDict(json_schema_extra={"examples": [{
        "name": "mood", "model": "starter-text", "labels": ["positive", "negative"],
        "jsonl": '{"text": "I love it", "label": "positive"}\n{"text": "It is bad", "label": "negative"}\n'
                 '{"text": "Great", "label": "positive"}\n{"text": "Awful", "label": "negative"}\n'}]})

    name: str = Field(pattern=NAME, description="takes the place of one with the same name")
    model: ModelId
    labels: list[Any] | None = Field(None, description="those of the texts when left out")
    examples: list[Any] | None = Field(None, description="texts that are shown to the model; not from the file")
    instructions: str | None = Field(None, max_length=20_000)
    multi_label: bool = False
    jsonl: str | None = Field(None, description="a line of JSON with text and label (or labels) for each text")
    data: list[Any] | None = Field(None, description="the same as a list of objects")
    holdout: float = Field(0.3, gt=0.0, lt=1.0, description="share of the texts that the error is measured on")
    seed: int = Field(0, ge=0, le=2**32 - 1, description="which texts these are")


@router.post("", openapi_extra=body_of(ClassifierRequest))
async def create(
    request: Request, services: Having, caller: Caller,
    body: Annotated[ClassifierRequest, json_body(ClassifierRequest)],
) -> Response:
    """Fit a temperature (of `multi_label` a bias too) to texts whose labels are known, and keep it under a name. The
    answer has the expected calibration error before and after, on texts that it was not fitted to."""
    made = await attended(request, _made(services, body, caller))
    return JSONResponse(view(made), status_code=201)


@router.get("")
async def list_classifiers(services: Having, caller: Caller) -> dict[str, Any]:
    """The names of one's own."""
    return {"classifiers": await asyncio.to_thread(ClassifierStore(services.settings.data_dir).names, caller)}


@router.get("/{name}")
async def read(services: Having, caller: Caller, name: str) -> dict[str, Any]:
    """What it was calibrated to, and the calibration error before and after."""
    return view(await asyncio.to_thread(ClassifierStore(services.settings.data_dir).get, caller, name))


@router.delete("/{name}")
async def delete(services: Having, caller: Caller, name: str) -> dict[str, Any]:
    """Forget it."""
    await asyncio.to_thread(ClassifierStore(services.settings.data_dir).delete, caller, name)
    return {"name": name, "deleted": True}


async def _made(services: Services, body: ClassifierRequest, caller: str) -> Classifier:
    records = await asyncio.to_thread(_records, body)
    labels = body.labels if body.labels is not None else _labels_in(records, body.multi_label)
    question = question_of(labels, body.examples, body.instructions, body.multi_label)
    names = [label.name for label in question.labels]
    known = [example_of(item, where, names, body.multi_label) for where, item in records]
    card = await text_card(services, body.model)
    found = await logits(services, card, question, [example.text for example in known], caller,
                         lambda index: f"{records[index][0]}.text")
    made = await asyncio.to_thread(_fitted, body, card.id, question, known, found.logits)
    await asyncio.to_thread(ClassifierStore(services.settings.data_dir).save, caller, made)
    return made


def _fitted(
    body: ClassifierRequest, model: str, question: Question, known: list[Example], found: list[tuple[float, ...]],
) -> Classifier:
    names = [label.name for label in question.labels]
    fit, held = split(len(known), body.holdout, body.seed)
    if question.multi:
        many = [[name in example.labels for name in names] for example in known]
        scale = fit_multi([found[index] for index in fit], [many[index] for index in fit])
        before, after = (quality_multi([found[index] for index in held], [many[index] for index in held], one)
                         for one in (Scale(), scale))
    else:
        truth = [names.index(example.labels[0]) for example in known]
        scale = fit_single([found[index] for index in fit], [truth[index] for index in fit])
        before, after = (quality_single([found[index] for index in held], [truth[index] for index in held], one)
                         for one in (Scale(), scale))
    return Classifier(name=body.name, model=model, question=question, scale=scale, fitted=len(fit), held_out=len(held),
                      before=before, after=after, created_at=datetime.now(timezone.utc))


def _records(body: ClassifierRequest) -> list[tuple[str, Any]]:
    """Each with the name of its place. Raises InvalidRequest."""
    if (body.jsonl is None) == (body.data is None):
        raise InvalidRequest("give either jsonl or data: the texts whose labels are known", param="jsonl")
    found = [(f"data[{index}]", item) for index, item in enumerate(body.data or ())]
    for number, line in enumerate((body.jsonl or "").splitlines(), 1):
        if line.strip():
            try:
                found.append((f"jsonl line {number}", parse_json(line.encode(errors="replace"))))
            except InvalidRequest as error:
                raise InvalidRequest(f"jsonl line {number}: {error.message}", param="jsonl") from None
    field = "data" if body.jsonl is None else "jsonl"
    if not LEAST <= len(found) <= MOST:
        raise InvalidRequest(f"{field} has {len(found)} texts, it takes {LEAST} to {MOST}", param=field)
    return found


def _labels_in(records: list[tuple[str, Any]], multi: bool) -> list[str]:
    found: dict[str, None] = {}
    for where, item in records:
        given = item.get("labels", item.get("label")) if isinstance(item, dict) else None
        for label in given if isinstance(given, list) and multi else [given]:
            if not isinstance(label, str):
                raise InvalidRequest(f"{where}.label must be text, not {shown(label)}", param=f"{where}.label")
            found[label] = None
    return list(found)


def view(classifier: Classifier) -> dict[str, Any]:
    question = classifier.question
    return {
        "name": classifier.name, "model": classifier.model, "labels": [asdict(label) for label in question.labels],
        "multi_label": question.multi, "examples": len(question.examples),
        "temperature": classifier.scale.temperature, "bias": classifier.scale.bias, "fitted": classifier.fitted,
        "held_out": classifier.held_out, "before": asdict(classifier.before), "after": asdict(classifier.after),
        "created_at": classifier.created_at.isoformat()}
