"""The unmodified `openai` client, against the base model and against an adapter."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jsonschema
import openai
import pytest
from openai import OpenAI

from polyad.adapters_store.base_model import BaseModel

QUESTION: list[Any] = [{"role": "user", "content": "What is the weather in Paris today?"}]
SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 12},
        "degrees": {"type": "integer", "minimum": -50, "maximum": 50},
        "sky": {"enum": ["clear", "cloudy"]},
    },
    "required": ["city", "degrees", "sky"],
    "additionalProperties": False,
}
FUNCTION = {"name": "get_weather", "description": "The weather now.", "parameters": SCHEMA}
WEATHER: list[Any] = [{"type": "function", "function": FUNCTION}]


@dataclass(frozen=True)
class Model:
    """A name to ask for, and the name that answers must carry."""

    name: str
    answers_as: str


@pytest.fixture(params=["base", "adapter"])
def model(request: pytest.FixtureRequest, base: BaseModel) -> Model:
    if request.param == "base":
        return Model(base.name, base.name)
    name = request.getfixturevalue("new_adapter")(seed=11, rank=4, size=0.02)
    return Model(name, f"{name}@v1")


def chat(client: OpenAI, model: Model, **options: Any) -> Any:
    options = {"messages": QUESTION, "temperature": 0, "max_tokens": 24, **options}
    return client.chat.completions.create(model=model.name, **options)


def test_chat_and_its_stream_say_the_same(openai_client: OpenAI, model: Model) -> None:
    whole = chat(openai_client, model)
    assert whole.model == model.answers_as
    assert whole.usage.completion_tokens == 24
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + 24
    assert whole.choices[0].finish_reason == "length"
    chunks = list(chat(openai_client, model, stream=True, stream_options={"include_usage": True}))
    assert {chunk.model for chunk in chunks} == {model.answers_as}
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == whole.choices[0].message.content
    assert chunks[-2].choices[0].finish_reason == "length"
    assert (chunks[-1].choices, chunks[-1].usage.completion_tokens) == ([], 24)
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_completions_and_their_stream_say_the_same(openai_client: OpenAI, model: Model) -> None:
    options: dict[str, Any] = {"model": model.name, "prompt": "The sea is", "temperature": 0, "max_tokens": 12}
    whole = openai_client.completions.create(**options)
    chunks = list(openai_client.completions.create(**options, stream=True))
    assert {chunk.model for chunk in [whole, *chunks]} == {model.answers_as}
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text


def test_responses_and_their_stream_say_the_same(openai_client: OpenAI, model: Model) -> None:
    options: dict[str, Any] = {"model": model.name, "input": "What is the sea?", "temperature": 0}
    whole = openai_client.responses.create(**options, max_output_tokens=16)
    assert whole.model == model.answers_as
    assert whole.usage.output_tokens == 16
    assert whole.output_text
    events = list(openai_client.responses.create(**options, max_output_tokens=16, stream=True))
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == whole.output_text
    # a 135M model cut off after 16 tokens has not finished
    assert events[-1].type in ("response.completed", "response.incomplete")
    assert events[-1].response.model == model.answers_as


def test_structured_output_fits_its_schema(openai_client: OpenAI, model: Model) -> None:
    schema = {"name": "weather", "schema": SCHEMA, "strict": True}
    answer = chat(openai_client, model, max_tokens=100, response_format={"type": "json_schema", "json_schema": schema})
    assert answer.model == model.answers_as
    assert answer.choices[0].finish_reason == "stop"
    jsonschema.validate(json.loads(answer.choices[0].message.content), SCHEMA)


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "get_weather"}}], ids=str)
def test_tool_that_must_be_called_is_called(openai_client: OpenAI, model: Model, choice: Any) -> None:
    # one call: a model this small, made to call, never comes to the end of a list
    options = {"tools": WEATHER, "tool_choice": choice, "parallel_tool_calls": False, "max_tokens": 120}
    answer = chat(openai_client, model, **options)
    assert answer.model == model.answers_as
    calls = answer.choices[0].message.tool_calls
    assert {call.function.name for call in calls} == {"get_weather"}
    for call in calls:
        jsonschema.validate(json.loads(call.function.arguments), SCHEMA)
    streamed: dict[int, str] = {}
    for chunk in chat(openai_client, model, stream=True, **options):
        for part in (chunk.choices[0].delta.tool_calls or ()) if chunk.choices else ():
            streamed[part.index] = streamed.get(part.index, "") + (part.function.arguments or "")
    # the stream has the model's own spaces and line ends
    assert [json.loads(text) for text in streamed.values()] == [json.loads(call.function.arguments) for call in calls]


def test_tool_that_may_be_called_is_parsed_from_the_models_own_text(openai_client: OpenAI, model: Model) -> None:
    """A grammar makes even this small model write a call as hermes does; the parser must find it."""
    grammar = r'root ::= "<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Paris\"}}\n</tool_call>"'
    answer = chat(
        openai_client,
        model,
        tools=WEATHER,
        tool_choice="auto",
        max_tokens=60,
        extra_body={"structured_outputs": {"grammar": grammar}},
    )
    (call,) = answer.choices[0].message.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == ("get_weather", {"city": "Paris"})
    assert answer.choices[0].finish_reason == "tool_calls"
    assert not answer.choices[0].message.content


def test_tool_that_is_not_called_leaves_text(openai_client: OpenAI, model: Model) -> None:
    for choice in ("auto", "none"):
        message = chat(openai_client, model, tools=WEATHER, tool_choice=choice).choices[0].message
        assert message.content
        assert not message.tool_calls


def test_logprobs_rank_the_greedy_token_first(openai_client: OpenAI, model: Model) -> None:
    answer = chat(openai_client, model, logprobs=True, top_logprobs=3, max_tokens=8)
    entries = answer.choices[0].logprobs.content
    assert len(entries) == 8
    assert "".join(entry.token for entry in entries) == answer.choices[0].message.content
    for entry in entries:
        ranked = [other.logprob for other in entry.top_logprobs]
        assert ranked == sorted(ranked, reverse=True)
        assert entry.logprob == ranked[0] <= 0


def test_several_choices_and_their_seed(openai_client: OpenAI, model: Model) -> None:
    options: dict[str, Any] = {"n": 2, "temperature": 1.0, "max_tokens": 16}
    first = chat(openai_client, model, seed=5, **options)
    assert [choice.index for choice in first.choices] == [0, 1]
    texts = [choice.message.content for choice in first.choices]
    assert texts[0] != texts[1]
    assert first.usage.completion_tokens == 32
    again = chat(openai_client, model, seed=5, **options)
    assert [choice.message.content for choice in again.choices] == texts
    other = chat(openai_client, model, seed=6, **options)
    assert [choice.message.content for choice in other.choices] != texts


def test_stop_ends_before_the_stop_string(openai_client: OpenAI, model: Model) -> None:
    whole = chat(openai_client, model).choices[0].message.content
    stop = whole[len(whole) // 2 :][:4]
    answer = chat(openai_client, model, stop=[stop])
    assert answer.choices[0].message.content == whole[: whole.index(stop)]
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.completion_tokens < 24


def test_models_are_listed_with_what_they_stand_for(
    openai_client: OpenAI, base: BaseModel, new_adapter: Callable[..., str]
) -> None:
    name = new_adapter(seed=1)
    listed: dict[str, Any] = {model.id: model for model in openai_client.models.list()}
    assert (listed[name].root, listed[name].parent) == (f"{name}@v1", base.name)
    assert listed[base.name].parent is None
    assert listed[name].created > 1_700_000_000


def test_tokenizer_is_the_base_models(openai_client: OpenAI, model: Model) -> None:
    body = {"model": model.name, "prompt": "Hello, world"}
    tokens = openai_client.post("/../tokenize", body=body, cast_to=object)
    assert tokens["tokens"] == [19556, 28, 905]  # type: ignore[index]


@pytest.mark.parametrize("route", ["chat", "chat stream", "completions", "responses"])
def test_unknown_model_is_openais_404(openai_client: OpenAI, route: str) -> None:
    requests: dict[str, Callable[[], object]] = {
        "chat": lambda: openai_client.chat.completions.create(model="nobody", messages=QUESTION),
        "chat stream": lambda: openai_client.chat.completions.create(model="nobody", messages=QUESTION, stream=True),
        "completions": lambda: openai_client.completions.create(model="nobody", prompt="Hello"),
        "responses": lambda: openai_client.responses.create(model="nobody", input="Hello"),
    }
    with pytest.raises(openai.NotFoundError) as error:
        requests[route]()
    assert error.value.param == "model"
    assert "'nobody' is not served here" in error.value.message
