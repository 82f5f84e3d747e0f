"""A merge, from deltas to a delta: one module after the other, in as many threads as are given.

Every module is computed by one thread alone with one thread of torch's, so that its bytes do not depend on how many
there are. Memory holds, for each thread, what is left of one matrix of every input (the matrix itself, where a method
needs it), and the result.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import combinations, islice

import torch

from polyad.adapters_store.delta import Delta, ModuleDelta, module_norm, module_sum
from polyad.adapters_store.errors import InvalidInput
from polyad.adapters_store.merge.compress import Compressed, compress, compress_low_rank
from polyad.adapters_store.merge.method import Coefficients, Combine, Products, Tensors
from polyad.adapters_store.merge.module_inputs import ModuleInputs, Weights
from polyad.adapters_store.merge.recipe import Recipe
from polyad.adapters_store.merge.report import ModuleReport, Report
from polyad.adapters_store.merge.setting import Places
from polyad.adapters_store.merge.survey import whole_model_threshold
from polyad.adapters_store.merge.task import Task, matrix, written
from polyad.adapters_store.merge.workspace import Workspace

Statistics = Mapping[str, torch.Tensor]
Progress = Callable[[int, int], None]

# Bytes of a module, of all inputs together.
_LITTLE = 2**19


@dataclass(frozen=True, eq=False)
class Merged:
    delta: Delta
    report: Report


@dataclass(frozen=True, eq=False)
class _Result:
    """Of one module; the norm of the change, and of what compression lost."""

    change: ModuleDelta | None
    norm: float
    error: float = 0.0


_Done = tuple[ModuleDelta | None, ModuleReport]


@dataclass(frozen=True, eq=False, kw_only=True)
class Execution:
    """`deltas` by source. `weights` gives the base's W by module, for adapters that scale it; `statistics` what is
    stored beside each input, by tensor. `progress` hears how many modules of how many are done.
    """

    recipe: Recipe
    deltas: Mapping[str, Delta]
    weights: Weights | None = None
    statistics: Sequence[Statistics] | None = None
    threads: int = 1
    progress: Progress = lambda done, of: None
    places: Places = field(init=False)
    _workspace: Workspace = field(init=False, default_factory=Workspace)

    def __post_init__(self) -> None:
        object.__setattr__(self, "places", Places(self._modules()))
        needed = self.recipe.statistics
        if needed is not None and (self.statistics is None or len(self.statistics) != len(self.recipe.inputs)):
            raise InvalidInput("statistics", None, f"{needed} statistics of every input, for {self.recipe.method}")

    def run(self) -> Merged:
        """Raises InvalidInput for inputs that do not fit the method or each other."""
        began = time.monotonic()
        modules = self._modules()
        done: dict[str, _Done] = {}
        with _one_thread_of_torch():
            for module, result in self._results(modules):
                done[module] = result
                self.progress(len(done), len(modules))
        changes = {module: change for module, (change, _) in done.items() if change is not None and change.tensors}
        if not changes:
            raise InvalidInput("recipe", self.recipe.method, "a merge that changes something: this one is all zero")
        report = Report(
            method=self.recipe.method,
            variant=str(self.recipe.variant),
            inputs=[_text(one.terms) for one in self.recipe.inputs],
            modules=[report for _, report in done.values()],
            warnings=self._warnings(),
            seconds=time.monotonic() - began,
        )
        return Merged(Delta(changes), report)

    def _modules(self) -> list[str]:
        return sorted({module for source in self.recipe.sources for module in self._delta(source).modules})

    def _delta(self, source: str) -> Delta:
        if source not in self.deltas:
            raise InvalidInput("inputs", source, "adapters that are there")
        return self.deltas[source]

    def _results(self, modules: Sequence[str]) -> Iterator[tuple[str, _Done]]:
        """In order."""
        threads, thresholds = self._useful_threads(), self._thresholds(modules)
        if threads == 1:
            yield from ((module, self._module(module, thresholds)) for module in modules)
            return
        with ThreadPoolExecutor(threads, "polyad-merge", lambda: torch.set_num_threads(1)) as pool:
            yield from self._in_order(pool, modules, thresholds)

    def _in_order(
        self, pool: ThreadPoolExecutor, modules: Sequence[str], thresholds: Sequence[float] | None
    ) -> Iterator[tuple[str, _Done]]:
        """The results. Not many more are begun than there are threads for: an error should not have to wait."""
        waiting = iter(modules)
        begun: list[tuple[str, Future[_Done]]] = []
        try:
            while True:
                for module in islice(waiting, 4 * self.threads - len(begun)):
                    begun.append((module, pool.submit(self._module, module, thresholds)))
                if not begun:
                    return
                module, future = begun.pop(0)
                yield module, future.result()
        finally:
            for _, future in begun:
                future.cancel()

    def _useful_threads(self) -> int:
        """One, where modules are so little work that threads would wait for each other longer than they compute."""
        if self.recipe.declaration.coefficients is None or self.recipe.compress is not None:
            return self.threads
        deltas = [self._delta(source) for source in self.recipe.sources]
        return self.threads if sum(one.size / max(len(one.modules), 1) for one in deltas) > _LITTLE else 1

    def _inputs(self, module: str) -> ModuleInputs:
        return ModuleInputs.of(module, self.recipe.inputs, self.deltas, self.weights)

    def _thresholds(self, modules: Sequence[str]) -> list[float] | None:
        method = self.recipe.declaration
        if self.recipe.variant not in method.whole_model:
            return None
        shares = self._shares(method.survey_share)

        def tensors_of(place: int) -> Iterator[torch.Tensor]:
            for module in modules:
                inputs = self._inputs(module)
                alone = ModuleInputs(module, [inputs.changes[place]], inputs.shape, inputs.weight)
                if inputs.has_matrix:
                    yield matrix(alone.tasks(self._workspace)[0])
                if inputs.has_bias:
                    yield alone.biases()[0]

        return [
            whole_model_threshold(lambda place=place: tensors_of(place), share)  # type: ignore[misc]
            for place, share in enumerate(shares)
        ]

    def _shares(self, parameter: str) -> list[float]:
        values = self.recipe.values("", self.places)
        return [float(one.get(parameter, values[parameter])) for one in self.recipe.input_values("", self.places)]

    def _module(self, module: str, thresholds: Sequence[float] | None) -> _Done:
        inputs = self._inputs(module)
        products = inputs.products()
        method = self.recipe.declaration
        result = _Result(None, 0.0)
        if method.coefficients is not None:
            result = self._summed(inputs, products, method.coefficients)
        elif method.combine is not None:
            result = self._combined(inputs, method.combine, thresholds)
        return result.change, self._report(inputs, products, result)

    def _summed(self, inputs: ModuleInputs, products: Sequence[Sequence[float]], coefficients: Coefficients) -> _Result:
        weights = self.recipe.weights(inputs.module, self.places)
        values = self.recipe.values(inputs.module, self.places)
        shares = coefficients(Products(products, weights, values))
        present = [(one, share) for one, share in zip(inputs.changes, shares, strict=True) if one is not None]
        change = module_sum(inputs.module, [one for one, _ in present], [share for _, share in present])
        if change is None:
            return _Result(None, 0.0)
        squared = sum(
            a * b * product
            for a, row in zip(shares, products, strict=True)
            for b, product in zip(shares, row, strict=True)
        )
        whole = math.sqrt(max(squared, 0.0))
        if change.low_rank is None or self.recipe.compress is None:
            return _Result(change, whole)
        grams = inputs.grams.weighted(shares) if inputs.grams is not None and all(shares) else None
        smaller = compress_low_rank(change.low_rank, self.recipe.compress, grams)
        if smaller.low_rank is change.low_rank:
            return _Result(change, whole)
        change = _with_low_rank(change, smaller)
        return _Result(change, module_norm(change, inputs.weight), smaller.error)

    def _combined(self, inputs: ModuleInputs, combine: Combine, thresholds: Sequence[float] | None) -> _Result:
        compressed, bias = Compressed(None, None, 0.0), None
        if inputs.has_matrix:
            merged = combine(self._tensors(inputs.module, inputs.tasks(self._workspace), thresholds))
            compressed = compress(merged, self.recipe.compress, self._workspace)
        if inputs.has_bias:
            bias = written(combine(self._tensors(f"{inputs.module}.bias", inputs.biases(), thresholds)))
        change = ModuleDelta(low_rank=compressed.low_rank, sparse=compressed.sparse, bias=bias)
        known = compressed.norm if bias is None else None
        norm = module_norm(change, inputs.weight) if known is None else known
        return _Result(change, norm, compressed.error)

    def _tensors(self, name: str, sources: Sequence[Task], thresholds: Sequence[float] | None) -> Tensors:
        statistics, kind = None, self.recipe.statistics
        # vectors have no Gram matrix
        if self.statistics is not None and not (kind == "gram" and len(sources[0].shape) == 1):
            statistics = [_statistic(one, name, place) for place, one in enumerate(self.statistics)]
        return Tensors(
            name=name,
            sources=sources,
            weights=self.recipe.weights(name, self.places),
            values=self.recipe.values(name, self.places),
            per_input=self.recipe.input_values(name, self.places),
            seed=self.recipe.seed,
            thresholds=thresholds,
            statistics=statistics,
        )

    def _report(self, inputs: ModuleInputs, products: Sequence[Sequence[float]], result: _Result) -> ModuleReport:
        change = result.change
        norms = [math.sqrt(max(row[place], 0.0)) for place, row in enumerate(products)]
        pairs = [(norms[a] * norms[b], products[a][b]) for a, b in combinations(range(len(norms)), 2)]
        return ModuleReport(
            module=inputs.module,
            norms=norms,
            cosines=[product / whole if whole else 0.0 for whole, product in pairs],
            conflict=inputs.conflict() if len(inputs.changes) > 1 else 0.0,
            norm=result.norm,
            density=_density(change, inputs.shape),
            form=_form(change),
            rank=change.low_rank.rank if change is not None and change.low_rank is not None else 0,
            error=result.error,
            size=0 if change is None else change.size,
        )

    def _warnings(self) -> list[str]:
        method, found = self.recipe.declaration, []
        if self.recipe.variant in method.whole_model and isinstance(
            dict(self.recipe.parameters).get(method.survey_share), tuple
        ):
            found.append(f"{method.survey_share}: the value of the first layer holds for the whole model")
        return found


@contextmanager
def _one_thread_of_torch() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _statistic(one: Statistics, name: str, place: int) -> torch.Tensor:
    if name not in one:
        raise InvalidInput(f"statistics.{place}", sorted(one)[:3], f"one for {name}")
    return one[name]


def _with_low_rank(change: ModuleDelta, smaller: Compressed) -> ModuleDelta:
    return ModuleDelta(
        low_rank=smaller.low_rank,
        sparse=change.sparse,
        row_scale=change.row_scale,
        column_scale=change.column_scale,
        bias=change.bias,
    )


def _density(change: ModuleDelta | None, shape: tuple[int, int]) -> float:
    if change is None:
        return 0.0
    if change.low_rank is not None or change.scales_weight:
        return 1.0
    return change.sparse.count / (shape[0] * shape[1]) if change.sparse is not None else 0.0


def _form(change: ModuleDelta | None) -> str:
    if change is None:
        return "nothing"
    terms = ("low_rank", "sparse", "row_scale", "column_scale", "bias")
    return "+".join(term for term in terms if getattr(change, term) is not None) or "nothing"


def _text(terms: Sequence[tuple[str, float]]) -> str:
    return " + ".join(source if coefficient == 1 else f"{source}*{coefficient:g}" for source, coefficient in terms)
