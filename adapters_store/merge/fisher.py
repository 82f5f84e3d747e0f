"""Fisher-weighted averaging (arXiv 2111.09832), in delta form: the base cancels out, exactly.

    D = sum_i w_i F_i D_i / sum_i w_i F_i,  element by element, with F_i the diagonal Fisher information of input i

`floor` is the least F. With `favor_first` it holds for the first input alone: what no input cares about stays as there.
With `normalize` each F_i is divided by its norm over the tensor.
"""

import torch

from polyad.adapters_store.errors import InvalidInput
from polyad.adapters_store.merge.method import Form, Method, Tensors
from polyad.adapters_store.merge.parameter import Parameter


def _fisher(tensors: Tensors) -> torch.Tensor:
    if tensors.statistics is None:
        raise InvalidInput("statistics", None, "the diagonal Fisher information of every input")
    above, below = torch.zeros_like(tensors.tasks[0]), torch.zeros_like(tensors.tasks[0])
    for place, (task, weight) in enumerate(zip(tensors.tasks, tensors.weights, strict=True)):
        information = tensors.statistics[place].to(torch.float32)
        if information.shape != task.shape:
            raise InvalidInput(f"statistics: {tensors.name}", tuple(information.shape), str(tuple(task.shape)))
        if tensors.values["normalize"]:
            information = information / information.norm().clamp(min=torch.finfo(torch.float32).tiny)
        if place == 0 or not tensors.values["favor_first"]:
            information = information.clamp(min=tensors.values["floor"])
        above.addcmul_(information, task, value=weight)
        below.add_(information, alpha=weight)
    return above.div_(torch.where(below == 0, 1, below))


FISHER = Method(
    name="fisher",
    title="Fisher-weighted average",
    paper="arXiv 2111.09832",
    form=Form.DENSE,
    parameters=(
        Parameter(name="floor", default=1e-6, low=0),
        Parameter(name="normalize", default=False),
        Parameter(name="favor_first", default=False),
    ),
    combine=_fisher,
    negative_weights=False,
    statistics="fisher",
)
