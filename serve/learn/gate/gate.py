"""The gate: all checks of a candidate, and the verdict with everything that it rests on."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from polyad.adapters_store.delta import Delta
from polyad.serve.learn.data import Example
from polyad.serve.learn.gate.bounds import bounds
from polyad.serve.learn.gate.drift import drift
from polyad.serve.learn.gate.finding import Finding
from polyad.serve.learn.gate.held_out import held_out
from polyad.serve.learn.gate.intruders import intruders
from polyad.serve.learn.gate.suite import read_suite, suite
from polyad.serve.learn.settings import GateSettings
from polyad.serve.learn.speaker import Speaker


@dataclass(frozen=True)
class Verdict:
    findings: tuple[Finding, ...]

    @property
    def passed(self) -> bool:
        return all(finding.passed is not False for finding in self.findings)

    @property
    def reason(self) -> str:
        """What speaks against it, or for it."""
        against = [finding for finding in self.findings if finding.passed is False]
        told = against or self.findings[:1]
        return "; ".join(f"{finding.check}: {finding.summary}" for finding in told)


def judge(
    speaker: Speaker,
    parent: Delta,
    candidate: Delta,
    examples: Sequence[Example],
    settings: GateSettings,
    suites: Path | None,
) -> Verdict:
    """Run every check, the cheap ones first. Raises ConfigError for a suite that cannot be read."""
    return Verdict(tuple(_findings(speaker, parent, candidate, examples, settings, suites)))


def _findings(
    speaker: Speaker,
    parent: Delta,
    candidate: Delta,
    examples: Sequence[Example],
    settings: GateSettings,
    suites: Path | None,
) -> Iterator[Finding]:
    cases = {chosen.name: read_suite(suites, chosen.name) for chosen in settings.suites}
    yield held_out(examples, speaker, parent, candidate, settings)
    yield bounds(speaker.model, parent, candidate, settings)
    if settings.max_intruders is not None:
        yield intruders(speaker.model, candidate, settings)
    yield drift(examples, speaker, candidate, settings)
    for chosen in settings.suites:
        yield suite(chosen, cases[chosen.name], speaker, parent, candidate, settings)
