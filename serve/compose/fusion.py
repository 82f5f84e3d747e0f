"""What `fuse(...)` asks for: its options checked, and which weight is meant for which expert."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from polyad.adapters_store.errors import InvalidInput
from polyad.kernels.fusion.method import (
    MAX_CANDIDATES,
    MeanProbabilities,
    Method,
    Search,
    contrastive,
    mean_log_probabilities,
    proxy,
    static,
)
from polyad.serve.compose.expression import Blend, Delta, Expression, Fusion
from polyad.serve.compose.options import Value

DYNAMIC = "dlf"
MAX_EXPERTS = 8
_PLAIN = "plain"


@dataclass(frozen=True, slots=True)
class _Mode:
    """What a mode runs and takes: whether the base is a stream, whether experts have weights, how many there may be."""

    has_base: bool
    weighted: bool
    least: int
    most: int
    method: "Callable[[_Options, Sequence[float]], Method]"


@dataclass(frozen=True, slots=True)
class Recipe:
    """A fusion whose options are checked. Without a method it is its only expert, as it is."""

    mode: str
    has_base: bool
    experts: tuple[Expression, ...]
    weights: tuple[float, ...]
    method: Method | None


class _Options:
    """The options of one fusion: what nobody asked for is unknown, and `asked` is what the mode knows."""

    def __init__(self, fusion: Fusion, field: str) -> None:
        self.asked: list[str] = []
        self._left = dict(fusion.options)
        self._fusion = fusion
        self._field = field

    def number(self, name: str, default: float, least: float, most: float) -> float:
        value = self._take(name, default)
        if isinstance(value, str) or not least <= value <= most:
            raise self.refused(name, value, f"a number from {least:g} to {most:g}")
        return float(value)

    def word(self, name: str, default: str, allowed: Mapping[str, object] | Sequence[str]) -> str:
        value = self._take(name, default)
        if not isinstance(value, str) or value not in allowed:
            raise self.refused(name, value, f"one of {', '.join(word for word in allowed if word)}")
        return value

    def end(self, mode: str) -> None:
        for name, value in self._left.items():
            raise self.refused(name, value, f"with mode={mode}: {', '.join(self.asked)}")

    def refused(self, name: str, value: Value, allowed: str) -> InvalidInput:
        return InvalidInput(self._field, f"{name}={value}", allowed, f"in {self._fusion}")

    def _take(self, name: str, default: Value) -> Value:
        self.asked.append(name)
        return self._left.pop(name, default)


def recipe(fusion: Fusion, field: str) -> Recipe:
    """Read a fusion. Raises InvalidInput, naming `field`, the option and what is allowed."""
    options = _Options(fusion, field)
    name = options.word("mode", DYNAMIC, _MODES)
    mode = _MODES[name]
    experts, weights = _weighted(fusion, mode, name, field)
    plain = name in _SEARCHES and options.word("single", "", ("", _PLAIN)) == _PLAIN
    method: Method | None = mode.method(options, weights)
    options.end(name)
    if len(experts) == 1 and name in _SEARCHES:
        if not plain:
            raise InvalidInput(field, str(fusion), _one_expert(name))
        method = None
    elif not mode.least <= len(experts) <= mode.most:
        count = str(mode.least) if mode.least == mode.most else f"{mode.least} to {mode.most}"
        raise InvalidInput(field, f"{len(experts)} experts", f"{count} with mode={name}", f"in {fusion}")
    return Recipe(name, mode.has_base, experts, weights, method)


def _one_expert(mode: str) -> str:
    return (
        f"two experts or more with mode={mode}: with one expert on the same base the dynamic rule always finds that "
        f"expert itself. Ask for it alone, or with single={_PLAIN}, which runs it as the plain adapter"
    )


def _weighted(fusion: Fusion, mode: _Mode, name: str, field: str) -> tuple[tuple[Expression, ...], tuple[float, ...]]:
    """The experts, and the weight of each."""
    pairs = [_split(argument) for argument in fusion.arguments]
    if not mode.weighted:
        for argument, (_, weight) in zip(fusion.arguments, pairs, strict=True):
            if weight != 1:
                allowed = f"experts without weights: mode={name} finds its own. Save {argument} to use it as an expert"
                raise InvalidInput(field, str(argument), allowed, f"in {fusion}")
    return tuple(expert for expert, _ in pairs), tuple(weight for _, weight in pairs)


def _split(argument: Expression) -> tuple[Expression, float]:
    """`a*0.5` as `a` and 0.5; a sum of several is one expert as it is."""
    if isinstance(argument, Blend) and len(argument.parts) == 1:
        part: Delta = argument.parts[0].part
        return part, argument.parts[0].weight
    return argument, 1.0


def _temperature(options: _Options) -> float:
    return options.number("temperature", 1, 0.05, 20)


def _search(options: _Options, weights: Sequence[float]) -> Search:
    low, high = options.number("low", 0, -10, 10), options.number("high", 2, -10, 10)
    step = options.number("step", 0.1, 0.001, 10)
    if low > high:
        raise options.refused("low", low, f"no more than high={high:g}")
    # A step such as 0.1 must reach the end of its range in spite of its rounding.
    count = int((high - low) / step + 1e-9) + 1
    if count > MAX_CANDIDATES:
        raise options.refused("step", step, f"at most {MAX_CANDIDATES} values from low to high, this makes {count}")
    return Search(low, step, count, _temperature(options))


def _joint(options: _Options, weights: Sequence[float]) -> Search:
    found = _search(options, weights)
    return Search(found.low, found.step, found.count, found.temperature, options.number("rho", 0.01, 0, 1000))


def _shares(options: _Options, weights: Sequence[float]) -> tuple[float, ...]:
    total = sum(weights)
    if min(weights) < 0 or total == 0:
        raise options.refused("weights", " ".join(map(str, weights)), "none below 0 and not all 0, for a mean")
    return tuple(weight / total for weight in weights)


_MODES: dict[str, _Mode] = {
    "static": _Mode(True, True, 1, MAX_EXPERTS, lambda o, weights: static(weights, _temperature(o))),
    "mean": _Mode(False, True, 1, MAX_EXPERTS, lambda o, w: MeanProbabilities(_shares(o, w), _temperature(o))),
    "mean_log": _Mode(False, True, 1, MAX_EXPERTS, lambda o, w: mean_log_probabilities(_shares(o, w), _temperature(o))),
    "proxy": _Mode(True, False, 2, 2, lambda o, weights: proxy(o.number("alpha", 1, -10, 10), _temperature(o))),
    "contrastive": _Mode(
        False,
        False,
        2,
        2,
        lambda o, w: contrastive(o.number("alpha", 0.1, 1e-6, 1), o.number("beta", 0.5, 0, 10), _temperature(o)),
    ),
    DYNAMIC: _Mode(True, False, 2, MAX_EXPERTS, _search),
    "joint": _Mode(True, False, 2, MAX_EXPERTS, _joint),
}
_SEARCHES = (DYNAMIC, "joint")
