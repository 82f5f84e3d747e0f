"""SCE (arXiv 2408.07990): select where the task vectors vary most, weigh each by its energy there, erase minorities.

select: the `select_topk` of the elements with non-zero variance across inputs, largest variance first
calculate: weight_i = mean(d_i^2) / sum_j mean(d_j^2);  erase: only what agrees with the sign of the sum counts
"""

import torch

from polyad.adapters_store.merge.consensus import Election, agreeing
from polyad.adapters_store.merge.method import Form, Method, Tensors
from polyad.adapters_store.merge.parameter import SCALE, share
from polyad.adapters_store.merge.task import Result
from polyad.adapters_store.merge.threshold import top_mask

# The sign is that of the plain sum, the divisor the weights that agree.
_RULE = Election(weighted=False, divide="weights")


def _sce(tensors: Tensors) -> Result:
    tasks, select = tensors.tasks, tensors.values["select_topk"]
    if select < 1:
        mask = _most_varied(tasks, select)
        for task in tasks:
            task.mul_(mask)
    energies = [float(task.square().mean(dtype=torch.float64)) for task in tasks]
    total = sum(energies)
    weights = [energy / total for energy in energies] if total > 0 else [1 / len(tasks)] * len(tasks)
    return agreeing(tasks, weights, _RULE, tensors.values["scale"])


def _most_varied(tasks: list[torch.Tensor], select: float) -> torch.Tensor:
    variance = torch.stack(tasks).var(dim=0, unbiased=False)
    return top_mask(variance, int(int(torch.count_nonzero(variance)) * select))


SCE = Method(
    name="sce",
    title="SCE",
    paper="arXiv 2408.07990",
    form=Form.DENSE,
    parameters=(share("select_topk", 1.0), SCALE),
    variants=("mergekit",),
    combine=_sce,
    unweighted_variants=frozenset({"mergekit"}),
)
