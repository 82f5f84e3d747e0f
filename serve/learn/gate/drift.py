"""How far the candidate speaks from the base: KL(base || candidate) in nats a token, on answers that were given."""

from collections.abc import Sequence

from polyad.adapters_store.delta import Delta
from polyad.serve.learn.data import Example
from polyad.serve.learn.gate.finding import Finding
from polyad.serve.learn.settings import GateSettings
from polyad.serve.learn.speaker import Speaker
from polyad.serve.learn.train.options.kl_to_parent import kl

_EXAMPLES = 32


def drift(examples: Sequence[Example], speaker: Speaker, candidate: Delta, settings: GateSettings) -> Finding:
    """Over at most 32 of the examples."""
    rows = [speaker.encoder.row(one.prompt, one.answer, one.ended) for one in examples[:_EXAMPLES]]
    total, tokens = 0.0, 0
    for row in rows:
        with speaker.as_base():
            before = speaker.logits(row)
        with speaker.as_version(candidate):
            after = speaker.logits(row)
        total += float(kl(before, after).sum())
        tokens += len(row.answer)
    mean = total / max(1, tokens)
    limit = settings.max_drift
    summary = f"{mean:.4f} nats a token from the base" + ("" if limit is None else f", at most {limit:g} are allowed")
    evidence = {"kl": mean, "tokens": tokens}
    return Finding(check="drift", passed=None if limit is None else mean <= limit, summary=summary, evidence=evidence)
