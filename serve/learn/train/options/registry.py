"""The options that a policy can name."""

from collections.abc import Mapping

from polyad.adapters_store.errors import InvalidInput
from polyad.serve.learn.settings import OptionName
from polyad.serve.learn.train.options.averaging import Averaging
from polyad.serve.learn.train.options.ewc import Ewc
from polyad.serve.learn.train.options.ggpo import Ggpo
from polyad.serve.learn.train.options.hft import Hft
from polyad.serve.learn.train.options.kl_to_parent import KlToParent
from polyad.serve.learn.train.options.masked_thought import MaskedThought
from polyad.serve.learn.train.options.option import Option, Values
from polyad.serve.learn.train.options.task_weights import TaskWeights

OPTIONS: dict[OptionName, type[Option]] = {
    "hft": Hft,
    "ggpo": Ggpo,
    "masked_thought": MaskedThought,
    "task_weights": TaskWeights,
    "ewc": Ewc,
    "kl_to_parent": KlToParent,
    "averaging": Averaging,
}
# Whose settings are names of tasks, which only the feedback knows.
_OPEN = frozenset({"task_weights"})


def options_of(chosen: Mapping[OptionName, Values]) -> list[tuple[OptionName, Option]]:
    """The options, new, in the order of OPTIONS. Raises InvalidInput for a setting that does not exist."""
    for name, values in chosen.items():
        for value in values:
            if value not in OPTIONS[name].defaults and name not in _OPEN:
                raise InvalidInput(f"settings.train.options.{name}", value, ", ".join(OPTIONS[name].defaults))
    return [(name, kind({**kind.defaults, **chosen[name]})) for name, kind in OPTIONS.items() if name in chosen]
