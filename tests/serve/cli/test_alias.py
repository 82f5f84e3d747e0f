import json
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import Result

Run = Callable[..., Result]


@pytest.fixture(autouse=True)
def versions(fake: Any) -> None:
    fake.service.add("robot", b"one")
    fake.service.add("robot", b"two")


@pytest.mark.parametrize(
    ("options", "body"),
    [
        ([], {"version": "v2"}),
        (["--if-current", "v1"], {"version": "v2", "if_current": "v1"}),
    ],
)
def test_set_moves_the_alias(fake: Any, run: Run, options: list[str], body: dict[str, str]) -> None:
    result = run("alias", "set", "robot", "production", "v2", *options)
    assert (result.exit_code, result.stdout) == (0, "robot: production v2\n")
    assert fake.requests == [("PUT", "/v1/adapters/robot/aliases/production", body)]


def test_set_only_if_absent_sends_null(fake: Any, run: Run) -> None:
    first = run("alias", "set", "robot", "canary", "v2", "--if-current", "none")
    again = run("alias", "set", "robot", "canary", "v1", "--if-current", "none")
    assert fake.requests[0][2] == {"version": "v2", "if_current": None}
    assert (first.exit_code, again.exit_code) == (0, 1)
    assert again.stderr == "polyad: alias: 'canary' is at v2, not at None (409 Conflict)\n"
    assert fake.service.headers["robot"].aliases["canary"] == 2


def test_set_on_a_moved_alias_changes_nothing(fake: Any, run: Run) -> None:
    result = run("alias", "set", "robot", "production", "v2", "--if-current", "v2")
    assert result.exit_code == 1
    assert fake.service.headers["robot"].aliases == {"production": 1}


@pytest.mark.parametrize("current", ["2", "production", "None", ""])
def test_if_current_is_a_number_or_none(fake: Any, run: Run, current: str) -> None:
    result = run("alias", "set", "robot", "production", "v2", "--if-current", current)
    assert result.exit_code == 2
    assert "allowed: a version number such as v1, or none" in result.stderr
    assert fake.requests == []


@pytest.mark.parametrize("alias", ["v1", "a" * 12, "..", "Production"])
def test_aliases_that_cannot_be_are_refused_before_sending(fake: Any, run: Run, alias: str) -> None:
    result = run("alias", "set", "robot", alias, "v2")
    assert result.exit_code == 2
    assert fake.requests == []


def test_rm_leaves_the_version(fake: Any, run: Run) -> None:
    run("alias", "set", "robot", "canary", "v2")
    result = run("alias", "rm", "robot", "canary", "--json")
    assert json.loads(result.stdout)["aliases"] == {"production": "v1"}
    assert len(fake.service.versions) == 2
