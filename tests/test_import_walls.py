"""Imports point one way (design: kernels, then adapters_store, then serve), and each third party has one owner."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PRODUCT = ("serve", "adapters_store", "kernels", "proto")
BARE = {*PRODUCT, "tests", "helm"}

MAY_KNOW = {
    "kernels": {"kernels"},
    "proto": {"proto"},
    "adapters_store": {"adapters_store", "kernels"},
    "serve": {"serve", "adapters_store", "kernels", "proto"},
}
NEVER = {"adapters_store": {"fastapi", "starlette", "grpc"}}
OWNER = {
    "vllm": "serve/engine",
    "peft": "serve/learn",
    "trl": "serve/learn",
    "redis": "adapters_store",
    "pickle": "adapters_store/importer",
}
# What reads pickles is for the command line alone.
IMPORTER = "polyad.adapters_store.importer"
MAY_IMPORT = ("adapters_store/importer/", "serve/cli/")


def imported(tree: ast.AST, package: list[str]) -> Iterator[str]:
    """Every module that is imported anywhere in the tree, in full; `package` is where relative imports start."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) + 1 - node.level] if node.level else []
            module = ".".join([*start, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in {
            "import_module",
            "__import__",
        }:
            yield from (one.value for one in node.args if isinstance(one, ast.Constant) and isinstance(one.value, str))


def broken(path: str, source: str) -> list[str]:
    """What the file at `path` (relative to the repository) imports although it must not."""
    folder = path.split("/")[0]
    product = folder in PRODUCT
    package = ["polyad", *path.split("/")[:-1]]
    found = []
    for module in imported(ast.parse(source), package):
        root, part, *_ = [*module.split("."), ""]
        owner = OWNER.get(root)
        wrong = (
            (root in BARE and not (root == folder == "tests"))
            or (product and root == "polyad" and part not in MAY_KNOW[folder])
            or (product and root in NEVER.get(folder, ()))
            or (product and owner is not None and not path.startswith(owner + "/"))
            or (product and f"{module}.".startswith(f"{IMPORTER}.") and not path.startswith(MAY_IMPORT))
        )
        if wrong:
            found.append(f"{path} imports {module}")
    return found


def sources() -> list[Path]:
    folders = [*PRODUCT, "tests", "examples", "requirements"]
    return [file for folder in folders for file in sorted((ROOT / folder).rglob("*.py"))]


def test_no_file_breaks_a_wall() -> None:
    files = sources()
    assert {"serve", "adapters_store", "tests"} <= {file.relative_to(ROOT).parts[0] for file in files}
    found = [line for file in files for line in broken(str(file.relative_to(ROOT)), file.read_text())]
    assert found == []


def test_folders_of_the_namespace_are_no_packages_of_their_own() -> None:
    tests = [folder for folder in (ROOT / "tests").rglob("*") if folder.is_dir()]
    folders = [ROOT, ROOT / "tests", *tests, *(ROOT / name for name in PRODUCT)]
    assert [folder for folder in folders if (folder / "__init__.py").exists()] == []


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("kernels/merge.py", "from polyad.adapters_store.delta import Delta"),
        ("kernels/merge.py", "import polyad.serve.engine"),
        ("adapters_store/blobs.py", "def f():\n    import vllm.lora.request"),
        ("adapters_store/blobs.py", "class C:\n    async def f(self):\n        from fastapi import FastAPI"),
        ("adapters_store/blobs.py", "import grpc.aio"),
        ("adapters_store/blobs.py", "from polyad import serve"),
        ("adapters_store/blobs.py", "from polyad.proto import polyad_pb2"),
        ("adapters_store/registry/client.py", "from ...serve import engine"),
        ("serve/api/chat.py", "if TYPE_CHECKING:\n    from vllm import SamplingParams"),
        ("serve/engines/plugin.py", "import vllm"),
        ("serve/engine/plugin.py", "import redis.asyncio as store"),
        ("serve/engine/plugin.py", "from peft import PeftModel"),
        ("serve/compose/plan.py", "importlib.import_module('trl')"),
        ("adapters_store/admission/admission.py", "import pickle"),
        ("serve/service/adapters.py", "from polyad.adapters_store.importer import import_full"),
        ("adapters_store/source/folder.py", "from polyad.adapters_store import importer"),
        ("serve/compose/plan.py", "from kernels import lora"),
        ("tests/serve/test_plan.py", "import serve.compose"),
        ("examples/demo.py", "import adapters_store"),
    ],
)
def test_forbidden_import_is_caught(path: str, source: str) -> None:
    assert len(broken(path, source)) == 1


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("kernels/merge.py", "import torch\nfrom polyad.kernels.reference import merge"),
        ("adapters_store/registry/client.py", "import redis\nfrom ..errors import NotFound\nfrom . import records"),
        ("serve/engine/plugin.py", "import vllm\nfrom polyad.adapters_store.errors import LoadFailed"),
        ("serve/learn/trainer.py", "import peft, trl"),
        ("serve/cli/adapter_import.py", "from polyad.adapters_store.importer import import_full"),
        ("adapters_store/importer/restricted_pickle.py", "import pickle"),
        ("serve/api/chat.py", "import fastapi, vllmish"),
        ("tests/serve/test_plan.py", "import peft, redis, vllm\nfrom polyad.serve.compose import plan"),
    ],
)
def test_allowed_import_is_let_through(path: str, source: str) -> None:
    assert broken(path, source) == []
