"""Names: what each stands for, who answered, and that what nobody is called is never the base model."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from polyad.adapters_store.base_model import BaseModel

Push = Callable[..., str]


def complete(client: httpx.Client, model: Any) -> httpx.Response:
    return client.post("/v1/completions", json={"model": model, "prompt": "The sea", "max_tokens": 1})


@pytest.fixture
def name(new_name: Callable[[], str], make_adapter: Callable[..., Path], push: Push) -> str:
    """An adapter with v1 as production and v2 as canary."""
    name = new_name()
    push(name, make_adapter(seed=1))
    push(name, make_adapter(seed=2), alias="canary")
    return name


def test_every_way_to_name_a_version_is_answered_by_it(client: httpx.Client, base: BaseModel, name: str) -> None:
    versions = client.get(f"/v1/adapters/{name}/versions").json()["data"]
    digests = {version["version"]: version["digest"] for version in versions}
    ways = {
        name: "v1",
        f"{name}@production": "v1",
        f"{name}@canary": "v2",
        f"{name}@v1": "v1",
        f"{name}@v2": "v2",
        f"{name}@{digests['v2']}": "v2",
        f"{name}@{digests['v1'][:12]}": "v1",
    }
    for way, version in ways.items():
        for model in (way, f"{base.name}:{way}"):
            answer = complete(client, model)
            assert answer.status_code == 200, answer.text
            assert answer.json()["model"] == f"{name}@{version}"
    assert complete(client, base.name).json()["model"] == base.name


def test_same_bytes_under_two_names_are_two_adapters(
    client: httpx.Client, new_name: Callable[[], str], make_adapter: Callable[..., Path], push: Push
) -> None:
    folder = make_adapter(seed=1)
    names = [new_name(), new_name()]
    for name in names:
        push(name, folder)
    assert [complete(client, name).json()["model"] for name in names] == [f"{name}@v1" for name in names]
    client.delete(f"/v1/adapters/{names[0]}").raise_for_status()
    assert complete(client, names[0]).status_code == 404
    assert complete(client, names[1]).status_code == 200


@pytest.mark.parametrize(
    "pattern",
    [
        "{name}x",
        "{name} ",
        " {name}",
        "{upper}",
        "{name}@v3",
        "{name}@v0",
        "{name}@",
        "{name}@stable",
        "{name}@v1@v2",
        "{name}@ffffffffffff",
        "{name}/",
        "./{name}",
        "../{name}",
        "/{name}",
        "{name}\0",
        "{name}\n",
        "{name}\N{ZERO WIDTH SPACE}",
        "{fullwidth}",
        "{base}:",
        "{base}:{base}",
        "{base}@v1",
        "{base} ",
        "{lower_base}",
        "{base}:nobody",
        "nobody:{name}",
        "HuggingFaceTB/{base}",
        "\N{CYRILLIC SMALL LETTER ES}upport",
        "default",
        "{long}",
    ],
)
def test_unknown_name_is_404_and_nobody_answers(
    client: httpx.Client, base: BaseModel, new_adapter: Callable[..., str], pattern: str
) -> None:
    name = new_adapter(seed=1)
    model = pattern.format(
        name=name,
        upper=name.upper(),
        fullwidth="".join(chr(ord(letter) + 0xFEE0) for letter in name),
        base=base.name,
        lower_base=base.name.lower(),
        long="a" * 5000,
    )
    answer = complete(client, model)
    assert answer.status_code == 404, answer.text
    error = answer.json()["error"]
    assert (error["type"], error["param"], error["code"]) == ("UnknownModel", "model", 404)
    assert len(error["message"]) < 1000


@pytest.mark.parametrize(
    ("pattern", "status", "kind", "message"),
    [
        ("*", 400, "InvalidInput", "got '*' at character 1 of '*'"),
        ("{name}*", 400, "InvalidInput", "at the end of"),
        ("{base}:{name} + )", 400, "InvalidInput", "got ')' at character"),
        ("{name} + {base}", 400, "InvalidName", "at character"),
        ("{name}*0.7 + nobody*0.3", 404, "UnknownModel", "model: 'nobody' is not served here"),
    ],
)
def test_composition_that_cannot_be_read_or_resolved_says_where(
    client: httpx.Client,
    base: BaseModel,
    new_adapter: Callable[..., str],
    pattern: str,
    status: int,
    kind: str,
    message: str,
) -> None:
    answer = complete(client, pattern.format(name=new_adapter(seed=1), base=base.name))
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert (error["type"], error["param"], error["code"]) == (kind, "model", status)
    assert message in error["message"]


def test_saved_composition_is_listed_and_answers_like_a_name(
    client: httpx.Client, new_name: Callable[[], str], new_adapter: Callable[..., str]
) -> None:
    name, adapter = new_name(), new_adapter(seed=1)
    client.put(f"/v1/compositions/{name}", json={"expression": adapter}).raise_for_status()
    listed = {model["id"]: model["root"] for model in client.get("/v1/models").json()["data"]}
    assert listed[name] == adapter
    for model in (name, {"adapter": name}, {"blend": [{"adapter": name}]}):
        assert complete(client, model).json()["model"] == f"{adapter}@v1"
    client.delete(f"/v1/compositions/{name}").raise_for_status()
    assert complete(client, name).status_code == 404
