"""What merges are worth: adapters for four tasks of reasoning-gym, alone, blended and merged by each method, examined
on all four tasks by the tasks' own verifiers.

Every composition is asked as a client asks it. Merges have their defaults, and keep their result whole
(compress_density=1), so that the method is judged and not its compression; `ties_small` is what the server makes of
TIES by itself. Fisher averaging and RegMean come from `polyad statistics` and `polyad merge`.
"""

import json
import subprocess
import sys
from pathlib import Path

from tests.bench.examination import MAX_RANK, Folders, examination
from tests.bench.experts import DATA, SETTINGS, TASKS

STATISTICS = 64
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


def offline(base: Path, folders: Folders, scratch: Path) -> Folders:
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


if __name__ == "__main__":
    examination("merge quality", __doc__, compositions(), offline)
