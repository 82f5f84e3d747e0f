"""All merge methods by name."""

from polyad.adapters_store.errors import Conflict, Unsupported
from polyad.adapters_store.merge.breadcrumbs import BREADCRUMBS, BREADCRUMBS_TIES
from polyad.adapters_store.merge.dare import DARE_LINEAR, DARE_TIES
from polyad.adapters_store.merge.della import DELLA, DELLA_LINEAR
from polyad.adapters_store.merge.fisher import FISHER
from polyad.adapters_store.merge.linear import CHECKPOINT_AVERAGE, INTERPOLATE, LINEAR, SOUP, TASK_ARITHMETIC
from polyad.adapters_store.merge.magnitude_prune import GRAFT, MAGNITUDE_PRUNE
from polyad.adapters_store.merge.method import Method
from polyad.adapters_store.merge.model_stock import MODEL_STOCK
from polyad.adapters_store.merge.regmean import REGMEAN
from polyad.adapters_store.merge.sce import SCE
from polyad.adapters_store.merge.slerp import NUSLERP, SLERP
from polyad.adapters_store.merge.ties import TIES

_METHODS: dict[str, Method] = {}


def register(method: Method) -> Method:
    """Make a method known by its name. Raises Conflict if there is one already."""
    if method.name in _METHODS:
        raise Conflict("method", f"{method.name!r} is registered already")
    _METHODS[method.name] = method
    return method


def methods() -> list[Method]:
    """Every method, in the order of registration."""
    return list(_METHODS.values())


def method_of(name: str, field: str = "method") -> Method:
    """Raises Unsupported for a name that no method has."""
    found = _METHODS.get(name)
    if found is None:
        raise Unsupported(field, name, f"merge methods: {', '.join(_METHODS)}")
    return found


for _method in (
    LINEAR,
    TASK_ARITHMETIC,
    SOUP,
    CHECKPOINT_AVERAGE,
    INTERPOLATE,
    SLERP,
    NUSLERP,
    MODEL_STOCK,
    TIES,
    DARE_LINEAR,
    DARE_TIES,
    DELLA,
    DELLA_LINEAR,
    BREADCRUMBS,
    BREADCRUMBS_TIES,
    MAGNITUDE_PRUNE,
    SCE,
    FISHER,
    REGMEAN,
    GRAFT,
):
    register(_method)
