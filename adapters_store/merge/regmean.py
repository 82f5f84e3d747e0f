"""RegMean (arXiv 2212.09849), in delta form: the least-squares merge of linear layers, from their inputs' Gram
matrices.

    D = (sum_i w_i D_i G_i) (sum_i w_i G_i)^-1,  G_i = X_i' X_i / n with the elements off its diagonal times
    `off_diagonal`

Vectors (biases) have no Gram matrix and are averaged. Shape suffix: I input features.
"""

import torch

from polyad.adapters_store.errors import InvalidInput
from polyad.adapters_store.merge.consensus import total
from polyad.adapters_store.merge.method import Form, Method, Tensors
from polyad.adapters_store.merge.parameter import Parameter
from polyad.adapters_store.merge.task import Result

_JITTER = 1e-8


def _regmean(tensors: Tensors) -> Result:
    tasks, weights = tensors.tasks, tensors.weights
    if tasks[0].dim() == 1:
        return total(tasks, weights, sum(weights))
    if tensors.statistics is None:
        raise InvalidInput("statistics", None, "the Gram matrix of every input's activations")
    features = tasks[0].shape[1]
    gram_II = torch.zeros(features, features, dtype=torch.float64)
    moved = torch.zeros(tasks[0].shape, dtype=torch.float64)
    for task, weight, stored in zip(tasks, weights, tensors.statistics, strict=True):
        if stored.shape != gram_II.shape:
            raise InvalidInput(f"statistics: {tensors.name}", tuple(stored.shape), str(tuple(gram_II.shape)))
        one_II = stored.double() * tensors.values["off_diagonal"]
        one_II.diagonal().copy_(stored.double().diagonal())
        gram_II.add_(one_II, alpha=weight)
        moved.add_(task.double() @ one_II, alpha=weight)
    gram_II.diagonal().add_(_JITTER * float(gram_II.diagonal().mean().clamp(min=1e-30)))
    factor_II, failed = torch.linalg.cholesky_ex(gram_II)
    if int(failed):
        raise InvalidInput(f"statistics: {tensors.name}", "a matrix that is not positive definite", "Gram matrices")
    return torch.cholesky_solve(moved.t(), factor_II).t().float()


REGMEAN = Method(
    name="regmean",
    title="RegMean",
    paper="arXiv 2212.09849",
    form=Form.DENSE,
    parameters=(Parameter(name="off_diagonal", default=0.9, low=0, high=1),),
    combine=_regmean,
    negative_weights=False,
    statistics="gram",
)
