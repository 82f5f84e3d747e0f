"""The curators that a policy can name."""

from collections.abc import Sequence

from polyad.adapters_store.errors import InvalidInput
from polyad.serve.learn.data.curators.adaptive_threshold import AdaptiveThreshold
from polyad.serve.learn.data.curators.clear import Clear
from polyad.serve.learn.data.curators.curator import Curator, Scorer
from polyad.serve.learn.data.curators.grape import Grape
from polyad.serve.learn.data.curators.perplexity import Perplexity
from polyad.serve.learn.data.curators.s3ft import S3ft
from polyad.serve.learn.data.example import Decision, Example
from polyad.serve.learn.settings import Curator as Chosen

CURATORS: dict[str, Curator] = {
    curator.name: curator for curator in (AdaptiveThreshold(), Clear(), Grape(), Perplexity(), S3ft())
}


def check_curators(chosen: Sequence[Chosen]) -> None:
    """Raises InvalidInput for an option that does not exist."""
    for index, one in enumerate(chosen):
        known = CURATORS[one.name].options
        for option in one.options:
            if option not in known:
                raise InvalidInput(f"settings.data.curators.{index}.options", option, ", ".join(known))


def curate(
    examples: Sequence[Example], chosen: Sequence[Chosen], scorer: Scorer | None
) -> tuple[list[Example], list[Decision]]:
    """What the curators leave, each of what the one before left; every example that goes or is changed is on record."""
    check_curators(chosen)
    kept, decisions = list(examples), []
    for one in chosen:
        curator = CURATORS[one.name]
        if scorer is None:
            raise InvalidInput("scorer", None, f"the parent version, which curator {one.name!r} asks")
        choices = curator.choose(kept, scorer, {**curator.options, **one.options})
        for choice in choices:
            if choice.example is not choice.before:
                before = choice.before
                decisions.append(
                    Decision(
                        event=before.event,
                        example=before.id,
                        kind=before.kind,
                        kept=choice.example is not None,
                        by=curator.name,
                        reason=choice.reason,
                    )
                )
        kept = [choice.example for choice in choices if choice.example is not None]
    return kept, decisions
