"""What `polyad serve --example` adds for its base model, and what it says to try."""

import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from polyad.serve.cli.client import DEFAULT_URL

_OPTIONS = (
    ("--enforce-eager",),
    ("--max-model-len", "2048"),
    ("--enable-auto-tool-choice",),
    ("--tool-call-parser", "hermes"),
)

_TEXT = """
Try, in another terminal:

  curl {url}/v1/chat/completions -H 'Content-Type: application/json' {header}\\
    -d '{{"model": "robot", "messages": [{{"role": "user", "content": "Do you eat?"}}]}}'

  {imports}
  client = OpenAI(base_url="{url}/v1", api_key={key})
  question = {{"role": "user", "content": "Do you eat?"}}
  print(client.chat.completions.create(model="robot", messages=[question]).choices[0].message.content)

  {polyad} chat{option} robot "Do you eat?"
  {polyad} adapter ls{option}
"""


def base_options(given: Sequence[str], name: str) -> tuple[str, ...]:
    """The user's vLLM options, and the example's own where the user gave none."""
    known = {_plain(option) for option in given if option.startswith("--")}
    defaults = (*_OPTIONS, ("--served-model-name", name))
    return (*given, *(part for option in defaults if option[0] not in known for part in option))


def what_to_try(url: str, with_key: bool) -> str:
    """Commands that work against this server as they stand; `with_key` takes the key from POLYAD_KEY."""
    return _TEXT.format(
        url=url,
        header='-H "Authorization: Bearer $POLYAD_KEY" ' if with_key else "",
        imports=f"{'import os; ' if with_key else ''}from openai import OpenAI",
        key='os.environ["POLYAD_KEY"]' if with_key else '"none"',
        polyad=_command(),
        option="" if url == DEFAULT_URL else f" --url {shlex.quote(url)}",
    )


def _plain(option: str) -> str:
    name = option.split("=", 1)[0].replace("_", "-")
    return f"--{name.removeprefix('--no-')}" if name.startswith("--no-") else name


def _command() -> str:
    """How the person who reads it can run polyad again."""
    program = Path(sys.argv[0])
    if program.name != "polyad":
        return f"{shlex.quote(os.path.relpath(sys.executable))} -m polyad.serve.cli.main"
    found = shutil.which("polyad")
    if found is not None and Path(found).samefile(program):
        return "polyad"
    return shlex.quote(os.path.relpath(program))
