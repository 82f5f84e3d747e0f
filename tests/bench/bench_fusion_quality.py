"""What fusions are worth: experts for four tasks of reasoning-gym, fused by each method, on each task and on all tasks
as one stream, in which the user does not say which expert is right; against the single adapters, blends and TIES.

Each composition is asked as a client asks it, and answers greedily. A fusion of four experts is computed as five
sequences. Weights of 0.25 make a static fusion, and a blend, the mean of the experts; weights of 1 their sum.
"""

import argparse
import tempfile
from pathlib import Path

from polyad.serve.example import unpack_base_model
from tests.bench.adapters import push_to_polyad
from tests.bench.examination import examine_all, papers, right_expert, table_row, verdicts
from tests.bench.experts import RANK, SETTINGS, TASKS, experts
from tests.bench.machine import print_header, print_result
from tests.bench.servers import DTYPE, polyad

QUESTIONS = 100


def compositions() -> dict[str, str]:
    """What is asked, by its label."""
    names = list(TASKS)
    of = ", ".join(names)
    quarter = ", ".join(f"{name}*0.25" for name in names)
    return {
        "base": "()",
        **{name: name for name in names},
        "blend_mean": " + ".join(f"{name}*0.25" for name in names),
        "blend_sum": " + ".join(names),
        "ties": f"ties({of}; compress_density=1)",
        "dlf": f"fuse({of})",
        "joint": f"fuse({of}; mode=joint)",
        "static_mean": f"fuse({quarter}; mode=static)",
        "static_sum": f"fuse({of}; mode=static)",
        "mean": f"fuse({of}; mode=mean)",
        "mean_log": f"fuse({of}; mode=mean_log)",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base-models", type=Path, default=Path(".state/base-models"))
    parser.add_argument("--experts", type=Path, default=Path(".cache/experts"))
    parser.add_argument("--questions", type=int, default=QUESTIONS, help="of each task")
    given = parser.parse_args()
    model = unpack_base_model(given.base_models, print)
    tasks = {name: f"{task.name} {dict(task.options)}" for name, task in TASKS.items()}
    settings = {"model": model.name, "dtype": DTYPE, "rank": RANK, "questions": given.questions, **tasks}
    print_header("fusion quality", {**settings, "training": SETTINGS.model_dump(exclude_defaults=True)})
    folders = experts(model, given.experts)
    with tempfile.TemporaryDirectory() as folder:
        with polyad(model, Path(folder), "--slots", "8", "--max-rank", "64", "--merge-wait-s", "600") as server:
            for name, path in folders.items():
                push_to_polyad(server.url, name, path)
            found = examine_all(server.url, compositions(), papers(TASKS, given.questions))
    found["right_expert"] = right_expert(found, list(TASKS))
    print(table_row("right_expert", found["right_expert"]))
    print_result(verdicts(found, list(TASKS)))


if __name__ == "__main__":
    main()
