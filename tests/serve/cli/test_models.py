import json
from collections.abc import Callable
from typing import Any

from click.testing import Result

Run = Callable[..., Result]


def test_base_model_comes_first(fake: Any, run: Run) -> None:
    fake.service.add("robot")
    lines = [line.split() for line in run("models").stdout.splitlines()]
    assert [line[:2] for line in lines[-2:]] == [["the-base", "-"], ["robot", "the-base"]]
    assert [model["id"] for model in json.loads(run("models", "--json").stdout)["data"]] == ["the-base", "robot"]
