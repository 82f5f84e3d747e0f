"""`polyad key` and `polyad tenant`, against the routes themselves."""

import json
from collections.abc import Callable, Iterator

import pytest
from click.testing import CliRunner, Result

from polyad.serve.cli.main import polyad
from tests.serve.api.conftest import ADMIN_KEY, Face, new_face, tiny_base

__all__ = ["new_face", "tiny_base"]

Ask = Callable[..., Result]


@pytest.fixture(scope="module")
def ask(new_face: Callable[..., Face]) -> Iterator[Ask]:
    with new_face(admin_key=ADMIN_KEY) as face:

        def asked(*arguments: str, key: str = ADMIN_KEY) -> Result:
            environment = {"POLYAD_URL": str(face.client.base_url).rstrip("/"), "POLYAD_KEY": key}
            return CliRunner(env=environment).invoke(polyad, arguments)

        yield asked


def test_a_key_is_made_used_listed_and_revoked(ask: Ask) -> None:
    made = ask("key", "create", "--tenant", "acme", "--role", "publisher", "--label", "build server")
    assert made.exit_code == 0, made.stderr
    secret = made.stdout.strip()
    name = secret.split("_")[1]
    assert made.stderr == f"publisher of acme, key {name}; it will not be shown again:\n"
    assert ask("adapter", "ls", "--json", key=secret).exit_code == 0
    listed = json.loads(ask("key", "ls", "--tenant", "acme", "--json").stdout)["data"]
    assert [(entry["key"], entry["role"], entry["label"]) for entry in listed] == [(name, "publisher", "build server")]
    assert name in ask("key", "ls", "--tenant", "acme").stdout
    assert ask("key", "revoke", name).stdout == f"revoked {name}\n"
    refused = ask("adapter", "ls", key=secret)
    assert refused.exit_code == 1 and "401" in refused.stderr


def test_limits_are_set_one_by_one(ask: Ask) -> None:
    assert ask("tenant", "set", "acme", "--weight", "2.5", "--max-adapters", "7").exit_code == 0
    shown = json.loads(ask("tenant", "set", "acme", "--max-adapters", "none", "--max-running", "3", "--json").stdout)
    assert (shown["weight"], shown["max_adapters"], shown["max_running"]) == (2.5, None, 3)
    assert json.loads(ask("tenant", "show", "acme", "--json").stdout) == shown
    assert ask("tenant", "set", "acme", "--weight", "much").exit_code == 2
    refused = ask("tenant", "set", "acme", "--weight", "-1")
    assert refused.exit_code == 1 and "weight" in refused.stderr
