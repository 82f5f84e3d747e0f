"""Model Breadcrumbs (arXiv 2312.06795): of each task vector neither the largest elements nor the small ones; then sum.

- `paper`: row by row, as in the authors' code, which calls the two shares gamma and beta.
- `mergekit`: over the whole tensor; its gamma is drop_top, its density keep.
"""

from polyad.adapters_store.errors import InvalidInput
from polyad.adapters_store.merge.consensus import Election, agreeing, total
from polyad.adapters_store.merge.method import Form, Method, Tensors
from polyad.adapters_store.merge.parameter import SCALE, Parameter, share
from polyad.adapters_store.merge.task import Left, Result
from polyad.adapters_store.merge.trim import outliers, row_outliers


def _trimmed(tensors: Tensors) -> list[Left]:
    shares = list(zip(tensors.each("keep"), tensors.each("drop_top"), strict=True))
    if tensors.values["variant"] != "paper":
        return [outliers(task, *both) for task, both in zip(tensors.sources, shares, strict=True)]
    for kept, drop_top in shares:
        if kept + drop_top > 1:
            raise InvalidInput("drop_top", drop_top, f"at most {1 - kept:g}: drop_top and keep are shares of one whole")
    return [row_outliers(task, *both) for task, both in zip(tensors.tasks, shares, strict=True)]


def _breadcrumbs(tensors: Tensors) -> Result:
    return total(_trimmed(tensors), tensors.weights, scale=tensors.values["scale"])


def _breadcrumbs_ties(tensors: Tensors) -> Result:
    return agreeing(_trimmed(tensors), tensors.weights, _UNDIVIDED, tensors.values["scale"])


_UNDIVIDED = Election(weighted=True, divide="none")
_SHARES = (share("keep", 0.2), Parameter(name="drop_top", default=0.01, low=0, high=1, open_high=True), SCALE)

BREADCRUMBS = Method(
    name="breadcrumbs",
    title="Model Breadcrumbs",
    paper="arXiv 2312.06795",
    form=Form.SPARSE,
    parameters=_SHARES,
    variants=("paper", "mergekit"),
    combine=_breadcrumbs,
)
BREADCRUMBS_TIES = Method(
    name="breadcrumbs_ties",
    title="Model Breadcrumbs, then TIES",
    paper="arXiv 2312.06795",
    form=Form.SPARSE,
    parameters=_SHARES,
    variants=("paper", "mergekit"),
    combine=_breadcrumbs_ties,
    negative_weights=False,
)
