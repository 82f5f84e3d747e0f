import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

# Stand-ins for what takes a model and an engine; everything else is the command itself, in a process of its own.
PROGRAM = """
import asyncio, json, logging, os, resource, sys
from types import SimpleNamespace

class Server:
    def __init__(self, model, options, settings, report, when_up):
        self.seen = {"model": model, "options": list(options), "state_dir": str(settings.state_dir)}
        self.report, self.when_up = report, when_up

    async def run(self):
        self.report("starting the engine")
        logging.getLogger("polyad.x").info("a log line")
        logging.getLogger("polyad.x").debug("not this one")
        logging.getLogger("polyad").handlers[0].flush()
        await self.when_up("service", "http://127.0.0.1:9000")
        names = ("VLLM_LOGGING_LEVEL", "VLLM_LOGGING_STREAM", "HF_HUB_OFFLINE")
        self.seen |= {name: os.environ.get(name) for name in names}
        self.seen["files"] = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.seen["loop"] = type(asyncio.get_running_loop()).__module__
        print(json.dumps(self.seen), file=sys.stderr)

def unpack_base_model(cache, report):
    report(f"unpacking into {cache}")
    return cache / "small-0123"

async def register_examples(service, report):
    report(f"registered with the {service}")

sys.modules["polyad.serve.server"] = SimpleNamespace(Server=Server)
sys.modules["polyad.serve.example"] = SimpleNamespace(unpack_base_model=unpack_base_model)
sys.modules["polyad.serve.example.base_model"] = SimpleNamespace(MODEL_NAME="small")
sys.modules["polyad.serve.example.register"] = SimpleNamespace(register_examples=register_examples)

from polyad.serve.cli.main import main
main()
"""


def launched(*arguments: str, **environment: str) -> tuple[str, list[str], dict[str, Any]]:
    """What came out on stdout, the progress lines, and what the server saw."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("VLLM_", "HF_"))}

    def lower() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))

    child = subprocess.run(
        [sys.executable, "-c", PROGRAM, "serve", *arguments],
        capture_output=True,
        text=True,
        env={**kept, **environment},
        preexec_fn=lower,
        timeout=120,
    )
    assert child.returncode == 0, child.stderr
    *lines, seen = child.stderr.splitlines()
    return child.stdout, [line.partition(" s  ")[2] for line in lines], json.loads(seen)


def test_model_is_served_and_stdout_stays_empty() -> None:
    out, lines, seen = launched("some/model", "--dtype", "half")
    assert out == ""
    assert lines == ["importing the engine", "starting the engine", "a log line"]
    assert (seen["model"], seen["options"]) == ("some/model", ["--dtype", "half"])
    assert seen["files"][0] == seen["files"][1] > 256
    assert seen["loop"].startswith("uvloop")
    assert (seen["VLLM_LOGGING_LEVEL"], seen["VLLM_LOGGING_STREAM"]) == ("WARNING", "ext://sys.stderr")
    assert seen["HF_HUB_OFFLINE"] is None


def test_example_brings_model_adapters_and_what_to_try(tmp_path: Path) -> None:
    out, lines, seen = launched("--example", "--state-dir", str(tmp_path), "--max-model-len", "512")
    assert seen["model"] == str(tmp_path / "base-models" / "small-0123")
    assert seen["options"][:2] == ["--max-model-len", "512"]
    assert seen["options"].count("--max-model-len") == 1
    assert seen["options"][-2:] == ["--served-model-name", "small"]
    assert f"unpacking into {tmp_path / 'base-models'}" in lines
    assert lines[-1] == "registered with the service"
    assert "http://127.0.0.1:9000/v1/chat/completions" in out
    assert seen["HF_HUB_OFFLINE"] == "1"


def test_example_with_a_model_keeps_the_model() -> None:
    out, lines, seen = launched("some/model", "--example", "--allow-hub")
    assert (seen["model"], seen["options"]) == ("some/model", [])
    assert "registered with the service" in lines and "Try" in out
    assert seen["HF_HUB_OFFLINE"] is None


@pytest.mark.parametrize(("name", "value"), [("VLLM_LOGGING_LEVEL", "DEBUG"), ("HF_HUB_OFFLINE", "0")])
def test_environment_of_the_user_wins(name: str, value: str) -> None:
    assert launched("m", "--example", **{name: value})[2][name] == value
