"""What merges are worth: adapters for four tasks of reasoning-gym, alone, blended and merged by each method, examined
on all four tasks by the tasks' own verifiers.

Every composition is asked as a client asks it. Merges have their defaults, and keep their result whole
(compress_density=1), so that the method is judged and not its compression; `ties_small` is what the server makes of
TIES by itself. Fisher averaging and RegMean come from `polyad statistics` and `polyad merge`.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from polyad.serve.example import unpack_base_model
from tests.bench.adapters import push_to_polyad
from tests.bench.examination import examine_all, papers, right_expert, table_row, verdicts
from tests.bench.experts import DATA, RANK, SETTINGS, TASKS, experts
from tests.bench.machine import print_header, print_result
from tests.bench.servers import DTYPE, polyad

QUESTIONS = 100
STATISTICS = 64
MAX_RANK = 64
OFFLINE = {"fisher": "fisher", "regmean": "gram"}
WHOLE = "; compress_density=1"


def compositions() -> dict[str, str]:
    """What is asked, by its label."""
    names = list(TASKS)
    of = ", ".join(names)
    return {
        "base": "()",
        **{name: name for name in names},
        "soup": f"soup({of})",
        "blend_half": " + ".join(f"{name}*0.5" for name in names),
        "task_arithmetic": " + ".join(names),
        "ties": f"ties({of}{WHOLE})",
        "ties_small": f"ties({of})",
        "dare_linear": f"dare_linear({of}{WHOLE})",
        "dare_ties": f"dare_ties({of}{WHOLE})",
        "della": f"della({of}{WHOLE})",
        "breadcrumbs": f"breadcrumbs({of}{WHOLE})",
        "model_stock": f"model_stock({of})",
        **{method: method for method in OFFLINE},
    }


def command(*arguments: str | Path) -> None:
    subprocess.run([sys.executable, "-m", "polyad.serve.cli.main", *map(str, arguments)], check=True)


def offline(base: Path, folders: Mapping[str, Path], scratch: Path) -> dict[str, Path]:
    """The merges that need statistics, made by the commands that make them."""
    made = {}
    for method, kind in OFFLINE.items():
        for folder in folders.values():
            if not (folder / f"{kind}.safetensors").exists():
                told = (
                    "--data",
                    folder / DATA,
                    "--examples",
                    str(STATISTICS),
                    "--max-length",
                    str(SETTINGS.max_length),
                )
                command("statistics", folder, "--base", base, "--kind", kind, *told)
        recipe = scratch / f"{method}.json"
        inputs = [{"of": str(folder.resolve())} for folder in folders.values()]
        recipe.write_text(json.dumps({"method": method, "inputs": inputs, "compress": {"rank": MAX_RANK}}))
        command("merge", recipe, "--base", base, "--out", scratch / method)
        made[method] = scratch / method
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base-models", type=Path, default=Path(".state/base-models"))
    parser.add_argument("--experts", type=Path, default=Path(".cache/experts"))
    parser.add_argument("--questions", type=int, default=QUESTIONS, help="of each task")
    given = parser.parse_args()
    model = unpack_base_model(given.base_models, print)
    tasks = {name: f"{task.name} {dict(task.options)}" for name, task in TASKS.items()}
    settings = {"model": model.name, "dtype": DTYPE, "rank": RANK, "questions": given.questions, **tasks}
    print_header("merge quality", {**settings, "training": SETTINGS.model_dump(exclude_defaults=True)})
    folders = experts(model, given.experts)
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        pushed = {**folders, **offline(model, folders, scratch)}
        options = ("--slots", "8", "--max-rank", str(MAX_RANK), "--merge-wait-s", "600", "--merge-threads", "2")
        with polyad(model, scratch, *options) as server:
            for name, path in pushed.items():
                push_to_polyad(server.url, name, path)
            found = examine_all(server.url, compositions(), papers(TASKS, given.questions))
    found["right_expert"] = right_expert(found, list(TASKS))
    print(table_row("right_expert", found["right_expert"]))
    print_result(verdicts(found, list(TASKS)))


if __name__ == "__main__":
    main()
