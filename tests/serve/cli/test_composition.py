import json
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import Result

from polyad.adapters_store.registry import Composition

Run = Callable[..., Result]

BLEND = "support*0.7 + tone*0.3"


@pytest.mark.parametrize(
    ("options", "body"),
    [
        ([], {"expression": BLEND}),
        (["--if-absent"], {"expression": BLEND, "if_current": None}),
    ],
)
def test_set_saves(fake: Any, run: Run, options: list[str], body: dict[str, Any]) -> None:
    result = run("composition", "set", "helpful", BLEND, *options)
    assert (result.exit_code, result.stdout) == (0, f"helpful = {BLEND}\n")
    assert fake.requests == [("PUT", "/v1/compositions/helpful", body)]


def test_set_compares(fake: Any, run: Run) -> None:
    run("composition", "set", "helpful", BLEND)
    assert run("composition", "set", "helpful", "none", "--if-current", BLEND).exit_code == 0
    assert fake.requests[-1][2] == {"expression": "none", "if_current": BLEND}
    again = run("composition", "set", "helpful", "tone", "--if-current", BLEND)
    assert again.exit_code == 1
    assert again.stderr == f"polyad: if_current: 'helpful' is none, not {BLEND} (409 Conflict)\n"
    assert fake.compositions.saved["helpful"].expression == "none"


def test_two_conditions_exclude_each_other(fake: Any, run: Run) -> None:
    result = run("composition", "set", "helpful", BLEND, "--if-absent", "--if-current", "tone")
    assert result.exit_code == 2
    assert "--if-current and --if-absent exclude each other" in result.stderr
    assert fake.requests == []


def test_ls_shows_every_page(fake: Any, run: Run) -> None:
    fields: dict[str, Any] = {"tenant": "public", "expression": BLEND, "created": 1767225600.0, "revision": 1}
    names = [f"c{number:03d}" for number in range(203)]
    fake.compositions.saved = {name: Composition(name=name, **fields) for name in names}
    lines = run("composition", "ls").stdout.splitlines()
    assert [line.split()[0] for line in lines[-203:]] == names
    assert lines[-1].endswith(BLEND)
    assert [path for _, path, _ in fake.requests] == [
        "/v1/compositions?limit=200",
        "/v1/compositions?limit=200&after=c199",
    ]
    listed = json.loads(run("composition", "ls", "--json").stdout)
    assert (len(listed["data"]), listed["after"]) == (203, None)


def test_show(fake: Any, run: Run) -> None:
    run("composition", "set", "helpful", BLEND)
    assert run("composition", "show", "helpful").stdout == f"helpful = {BLEND}\n"
    shown = json.loads(run("composition", "show", "helpful", "--json").stdout)
    assert shown == {"object": "composition", "name": "helpful", "expression": BLEND, "created": 1767225600.0}


def test_rm(fake: Any, run: Run) -> None:
    run("composition", "set", "helpful", BLEND)
    assert run("composition", "rm", "helpful").stdout == "deleted helpful\n"
    gone = run("composition", "rm", "helpful", "--json")
    assert (gone.exit_code, gone.stderr) == (1, "polyad: composition: 'helpful' does not exist (404 Not Found)\n")
    run("composition", "set", "helpful", BLEND)
    assert json.loads(run("composition", "rm", "helpful", "--json").stdout)["composition"] == "helpful"


@pytest.mark.parametrize("verb", [("set", "Helpful", BLEND), ("show", "../x"), ("rm", "a b")])
def test_names_that_cannot_be_are_refused_before_sending(fake: Any, run: Run, verb: tuple[str, ...]) -> None:
    result = run("composition", *verb)
    assert result.exit_code == 2
    assert "allowed: [a-z0-9]" in result.stderr
    assert fake.requests == []
