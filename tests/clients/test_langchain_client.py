"""LangChain's client of OpenAI's API."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

import openai
import pytest
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAI, OpenAIEmbeddings
from pydantic import BaseModel, Field, SecretStr

MODEL = "starter-text"
QUESTION = "What is the capital of France? Answer in one sentence."
ANSWER = "The capital of France is Paris."


class City(BaseModel):
    """A city and where it is."""

    name: str = Field(description="of the city")
    continent: Literal["Europe", "Asia"]


@tool
def weather(city: Literal["Paris", "Rome"]) -> str:
    """The weather in a city."""
    return f"sunny in {city}"


def model_of(url: str, **more: Any) -> ChatOpenAI:
    return ChatOpenAI(base_url=f"{url}/v1", api_key=SecretStr("none"), timeout=120, max_retries=0,
                      **{"model": MODEL, "temperature": 0, "max_tokens": 24, **more})


def test_invoke(url: str) -> None:
    said = model_of(url).invoke([SystemMessage("Be brief."), HumanMessage(QUESTION)])
    assert "Paris" in str(said.content) and said.usage_metadata is not None
    assert said.usage_metadata["output_tokens"] > 3 and said.response_metadata["finish_reason"] == "stop"
    assert said.response_metadata["model_name"] == MODEL


def test_streamed(url: str) -> None:
    chunks = list(model_of(url, stream_usage=True).stream(QUESTION))
    assert "".join(str(chunk.content) for chunk in chunks) == ANSWER and len(chunks) > 4
    assert any(chunk.usage_metadata for chunk in chunks if isinstance(chunk, AIMessageChunk))


def test_async_and_batched(url: str) -> None:
    async def work() -> list[str]:
        model = model_of(url)
        streamed = "".join([str(chunk.content) async for chunk in model.astream(QUESTION)])
        whole = await model.abatch([QUESTION, QUESTION])
        return [streamed, *(str(one.content) for one in whole)]

    assert asyncio.run(work()) == [ANSWER] * 3


def test_tools(url: str) -> None:
    model = model_of(url, max_tokens=60)
    called = model.bind_tools([weather], tool_choice="any").invoke("How is the weather in Rome?")
    assert isinstance(called, AIMessage)
    call = called.tool_calls[0]
    assert call["name"] == "weather" and not called.invalid_tool_calls
    result = weather.invoke(call)
    assert isinstance(result, ToolMessage) and "sunny" in str(result.content)
    said = model.bind_tools([weather], tool_choice="none").invoke([HumanMessage("How is it?"), called, result])
    assert said.content
    named = model.bind_tools([weather], tool_choice="weather", strict=True)
    whole: Any = None
    for chunk in named.stream("How is the weather in Rome?"):
        whole = chunk if whole is None else whole + chunk
    assert whole.tool_calls[0]["args"]["city"] in ("Paris", "Rome")


@pytest.mark.parametrize("method", ["json_schema", "function_calling", "json_mode"])
def test_structured_output(url: str, method: Any) -> None:
    """Whatever the model would rather say, the object is there."""
    schema: Any = City if method != "json_mode" else None
    made = model_of(url, max_tokens=80).with_structured_output(schema, method=method, include_raw=False).invoke(
        "Tell me of Paris, as JSON.")
    assert isinstance(made, dict if method == "json_mode" else City)


def test_responses_api(url: str) -> None:
    said = model_of(url, use_responses_api=True).invoke(QUESTION)
    assert said.text == ANSWER or "Paris" in str(said.content)


def test_completions_and_vectors(url: str) -> None:
    old = OpenAI(base_url=f"{url}/v1", api_key=SecretStr("none"), model=MODEL, temperature=0, max_tokens=4)
    assert old.invoke("one two three")
    vectors = OpenAIEmbeddings(base_url=f"{url}/v1", api_key=SecretStr("none"), model=MODEL,
                               check_embedding_ctx_length=False)
    found = vectors.embed_documents(["a cat", "a dog"])
    assert len(found) == 2 and vectors.embed_query("a cat") == pytest.approx(found[0], abs=1e-3)


def test_models_of_one_request(url: str) -> None:
    said = model_of(url, model="nothing", extra_body={"models": [MODEL]}).invoke(QUESTION)
    assert said.content == ANSWER and said.response_metadata["model_name"] == MODEL


def test_errors(url: str) -> None:
    with pytest.raises(openai.NotFoundError):
        model_of(url, model="nothing").invoke(QUESTION)
    with pytest.raises(openai.BadRequestError, match="top_p"):
        model_of(url, top_p=7.0).invoke(QUESTION)
