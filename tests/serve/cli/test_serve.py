from collections.abc import Sequence
from typing import Any

import pytest
from click.testing import CliRunner, Result

from polyad.adapters_store.errors import ConfigError, RegistryUnavailable
from polyad.serve.cli import launch
from polyad.serve.cli.main import polyad
from polyad.serve.config import Settings


class Launched:
    """Takes the place of what starts the server."""

    def __init__(self) -> None:
        self.calls: list[tuple[str | None, list[str], Settings, bool]] = []
        self.error: Exception | None = None

    def __call__(self, model: str | None, options: Sequence[str], settings: Settings, example: bool) -> None:
        self.calls.append((model, list(options), settings, example))
        if self.error is not None:
            raise self.error


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> Launched:
    double = Launched()
    monkeypatch.setattr(launch, "launch", double)
    return double


def serve(*arguments: str) -> Result:
    return CliRunner().invoke(polyad, ["serve", *arguments])


@pytest.mark.parametrize(
    ("arguments", "options", "ours"),
    [
        (["m"], [], {}),
        (["m", "--max-model-len", "2048", "--enforce-eager"], ["--max-model-len", "2048", "--enforce-eager"], {}),
        (["m", "--dtype", "half", "--port", "9000", "-q", "awq"], ["--dtype", "half", "-q", "awq"], {"port": 9000}),
        (["--port", "9000", "m", "--dtype=half", "--slots=3"], ["--dtype=half"], {"port": 9000, "slots": 3}),
        (["m", "-tp", "2", "-O3", "-O.mode=3", "-pp=2"], ["-tp", "2", "-O3", "-O.mode=3", "-pp=2"], {}),
        (["m", "--max_model_len", "8"], ["--max_model_len", "8"], {}),
        (["m", "--seed", "-1", "--no-enable-prefix-caching"], ["--seed", "-1", "--no-enable-prefix-caching"], {}),
        (["m", "--served-model-name", "a", "b", "--max-rank", "8"], ["--served-model-name", "a", "b"], {"max_rank": 8}),
        (["m", "--hf-overrides", '{"--port": 1}', ""], ["--hf-overrides", '{"--port": 1}', ""], {}),
        (["m", "--allow-hub", "--allow-credentials"], ["--allow-credentials"], {"allow_hub": True}),
    ],
)
def test_options_are_told_apart(
    launched: Launched, arguments: list[str], options: list[str], ours: dict[str, Any]
) -> None:
    result = serve(*arguments)
    assert result.exit_code == 0, result.output
    assert launched.calls == [("m", options, Settings(**ours), False)]


@pytest.mark.parametrize(
    ("arguments", "model", "options"),
    [
        ([], None, []),
        (["--max-model-len", "512"], None, ["--max-model-len", "512"]),
        (["m", "--max-model-len", "512"], "m", ["--max-model-len", "512"]),
    ],
)
def test_example_needs_no_model(
    launched: Launched, arguments: list[str], model: str | None, options: list[str]
) -> None:
    assert serve("--example", *arguments).exit_code == 0
    assert launched.calls == [(model, options, Settings(), True)]


@pytest.mark.parametrize("arguments", [[], ["--max-model-len", "512", "m"], ["--slots", "3"]])
def test_missing_model_is_a_usage_error(launched: Launched, arguments: list[str]) -> None:
    result = serve(*arguments)
    assert result.exit_code == 2
    assert "MODEL is missing: it comes before vLLM's options" in result.stderr
    assert launched.calls == []


def test_print_config_starts_nothing(launched: Launched) -> None:
    assert serve("m", "--print-config").exit_code == 0
    assert serve("--print-config").exit_code == 0
    assert launched.calls == []


@pytest.mark.parametrize(
    ("error", "code"), [(ConfigError("port: in\nuse"), 2), (RegistryUnavailable("port: in\nuse"), 1)]
)
def test_error_at_start_is_one_line(launched: Launched, error: Exception, code: int) -> None:
    launched.error = error
    result = serve("m")
    assert (result.exit_code, result.stdout, result.stderr) == (code, "", "polyad: port: in use\n")
