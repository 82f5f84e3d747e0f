"""The largest elements of each task vector, summed (PEFT's magnitude_prune, on dW); or those of a learned mask."""

from polyad.adapters_store.errors import InvalidInput
from polyad.adapters_store.merge.consensus import total
from polyad.adapters_store.merge.method import Form, Method, Tensors
from polyad.adapters_store.merge.parameter import SCALE, share
from polyad.adapters_store.merge.task import Left, Result
from polyad.adapters_store.merge.trim import magnitude


def trimmed_by_magnitude(tensors: Tensors) -> list[Left]:
    """Every task vector by its density, or by its threshold over the whole model."""
    return [
        magnitude(task, density, None if tensors.thresholds is None else tensors.thresholds[place])
        for place, (task, density) in enumerate(zip(tensors.sources, tensors.each("density"), strict=True))
    ]


def _magnitude_prune(tensors: Tensors) -> Result:
    return total(trimmed_by_magnitude(tensors), tensors.weights, scale=tensors.values["scale"])


def _graft(tensors: Tensors) -> Result:
    if tensors.values["variant"] == "magnitude":
        return _magnitude_prune(tensors)
    if tensors.statistics is None:
        raise InvalidInput("statistics", None, "the mask of every input")
    for task, mask in zip(tensors.tasks, tensors.statistics, strict=True):
        if mask.shape != task.shape:
            raise InvalidInput(f"statistics: {tensors.name}", tuple(mask.shape), str(tuple(task.shape)))
        task.mul_(mask)
    return total(tensors.tasks, tensors.weights, scale=tensors.values["scale"])


MAGNITUDE_PRUNE = Method(
    name="magnitude_prune",
    title="Largest magnitudes, summed",
    paper="arXiv 2306.01708",
    form=Form.SPARSE,
    parameters=(share("density", 0.2), SCALE),
    variants=("peft",),
    combine=_magnitude_prune,
)
GRAFT = Method(
    name="graft",
    title="Skill graft: the largest elements of the whole model",
    paper="arXiv 2302.06600",
    form=Form.SPARSE,
    parameters=(share("density", 0.01), SCALE),
    variants=("magnitude", "learned"),
    combine=_graft,
    whole_model=frozenset({"magnitude"}),
    survey_share="density",
    statistics="graft",
    statistics_variants=frozenset({"learned"}),
)
