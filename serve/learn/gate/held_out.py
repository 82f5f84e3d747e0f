"""Feedback that no run has trained on: is the candidate better at it than its parent?"""

from collections.abc import Sequence

from polyad.adapters_store.delta import Delta
from polyad.serve.learn.data import Example
from polyad.serve.learn.gate.finding import Finding
from polyad.serve.learn.gate.statistics import better
from polyad.serve.learn.settings import GateSettings
from polyad.serve.learn.speaker import Speaker


def held_out(
    examples: Sequence[Example], speaker: Speaker, parent: Delta, candidate: Delta, settings: GateSettings
) -> Finding:
    """The gain of each example, in nats a token: of the log-probability of what is taught, of its lead over what was
    rejected, and of what was liked; less that of what was disliked."""
    examples = examples[: settings.max_held_out]
    if len(examples) < settings.min_held_out:
        summary = f"{len(examples)} held-out examples are too few to tell, {settings.min_held_out} are needed"
        return Finding(check="held_out", passed=False, summary=summary, evidence={"examples": len(examples)})
    with speaker.as_version(parent):
        before = worths(examples, speaker)
    with speaker.as_version(candidate):
        after = worths(examples, speaker)
    gains = [now - then for now, then in zip(after, before, strict=True)]
    p, mean = better(gains), sum(gains) / len(gains)
    passed = mean > 0 and p <= 1 - settings.confidence
    won = sum(gain > 0 for gain in gains)
    summary = f"better at {won} of {len(gains)} held-out examples, by {mean:+.4f} nats a token, p = {p:.4f}"
    evidence = {"examples": len(gains), "won": won, "mean_gain": mean, "p": p, "confidence": settings.confidence}
    pairs = [
        {"example": example.id, "kind": example.kind, "gain": round(gain, 6)}
        for example, gain in zip(examples, gains, strict=True)
    ]
    return Finding(check="held_out", passed=passed, summary=summary, evidence={**evidence, "gains": pairs})


def worths(examples: Sequence[Example], speaker: Speaker) -> list[float]:
    """How much a version is of the feedback's mind, for each example."""
    rows = [speaker.encoder.row(example.prompt, example.answer, example.ended) for example in examples]
    means = [float(total) / len(row.answer) for total, row in zip(speaker.sums(rows), rows, strict=True)]
    rejected = {
        index: speaker.encoder.row(example.prompt, example.rejected, example.rejected_ended)
        for index, example in enumerate(examples)
        if example.rejected is not None
    }
    if rejected:
        for (index, row), total in zip(rejected.items(), speaker.sums(list(rejected.values())), strict=True):
            means[index] -= float(total) / len(row.answer)
    return [-mean if one.desirable is False else mean for mean, one in zip(means, examples, strict=True)]
