"""What fusions are worth: experts for four tasks of reasoning-gym, fused by each method, on each task and on all tasks
as one stream, in which the user does not say which expert is right; against the single adapters, blends and TIES.

Each composition is asked as a client asks it, and answers greedily. A fusion of four experts is computed as five
sequences. Weights of 0.25 make a static fusion, and a blend, the mean of the experts; weights of 1 their sum.
"""

from tests.bench.examination import examination
from tests.bench.experts import TASKS


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


if __name__ == "__main__":
    examination("fusion quality", __doc__, compositions())
