"""Regression suites: JSONL files of the operator's, a case a line, {"prompt": ..., "verifier": {...}}.

The prompt is a text (one question of a user) or a list of messages.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from polyad.adapters_store.delta import Delta
from polyad.adapters_store.errors import ConfigError, InvalidInput
from polyad.adapters_store.feedback import Message
from polyad.serve.learn.data import Prompt
from polyad.serve.learn.gate.finding import Finding
from polyad.serve.learn.gate.statistics import interval, mcnemar
from polyad.serve.learn.gate.verifiers import VERIFIERS, check_verifier, refuses
from polyad.serve.learn.settings import GateSettings, SuiteSettings
from polyad.serve.learn.speaker import Speaker

_MAX_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Case:
    prompt: Prompt
    verifier: dict[str, Any]

    def holds(self, answer: str) -> bool:
        return VERIFIERS[self.verifier["kind"]](answer, self.verifier.get("expected"))


def read_suite(folder: Path | None, name: str) -> list[Case]:
    """Raises ConfigError for a suite that does not exist, or whose lines are no cases."""
    path = None if folder is None else folder / f"{name}.jsonl"
    if path is None or not path.is_file():
        raise ConfigError(f"suite {name!r}: no file {name}.jsonl in the folder of suites ({folder or 'none is set'})")
    if path.stat().st_size > _MAX_BYTES:
        raise ConfigError(f"suite {name!r}: larger than {_MAX_BYTES} bytes")
    cases = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if line.strip():
            cases.append(_case(f"suite {name!r}: line {number}", line))
    if not cases:
        raise ConfigError(f"suite {name!r}: has no cases")
    return cases


def suite(
    chosen: SuiteSettings, cases: list[Case], speaker: Speaker, parent: Delta, candidate: Delta, settings: GateSettings
) -> Finding:
    """A skill is held against the parent; refusals also against the base, or many small steps away would go unseen."""
    prompts = [case.prompt for case in cases]

    def marks() -> list[bool]:
        said = speaker.greedy(prompts)
        if chosen.kind == "refusals":
            return [refuses(one) for one in said]
        return [case.holds(one) for case, one in zip(cases, said, strict=True)]

    before = {}
    with speaker.as_version(parent):
        before["parent"] = marks()
    if chosen.kind == "refusals":
        with speaker.as_base():
            before["base"] = marks()
    with speaker.as_version(candidate):
        return compared(chosen, before, marks(), settings)


def compared(
    chosen: SuiteSettings, before: Mapping[str, list[bool]], after: list[bool], settings: GateSettings
) -> Finding:
    """Fails only if the score is lower than one before by more than is allowed, and not by chance."""
    held = {against: _held(chosen, marks, after, settings) for against, marks in before.items()}
    told = [
        f"{against} {one['right']}: lost {one['lost']}, won {one['won']}, p = {one['p']:.4f}"
        for against, one in held.items()
    ]
    evidence = {
        "kind": chosen.kind,
        "cases": len(after),
        "candidate": sum(after),
        "interval": interval(sum(after), len(after)),
        "max_drop": chosen.max_drop,
        **held,
    }
    return Finding(
        check=f"suite {chosen.name}",
        passed=not any(one["failed"] for one in held.values()),
        summary=f"{sum(after)} of {len(after)}; {'; '.join(told)}",
        evidence=evidence,
    )


def _held(chosen: SuiteSettings, before: list[bool], after: list[bool], settings: GateSettings) -> dict[str, Any]:
    lost = sum(then and not now for then, now in zip(before, after, strict=True))
    won = sum(now and not then for then, now in zip(before, after, strict=True))
    drop, p = (sum(before) - sum(after)) / len(before), mcnemar(lost, won)
    failed = drop > chosen.max_drop and p <= 1 - settings.suite_confidence
    return {"right": sum(before), "lost": lost, "won": won, "p": p, "failed": failed}


def _case(place: str, line: str) -> Case:
    try:
        value = json.loads(line)
        check_verifier(place, value["verifier"])
        prompt = value["prompt"]
        if isinstance(prompt, str):
            return Case((Message(role="user", content=prompt),), value["verifier"])
        return Case(tuple(Message(**turn) for turn in prompt), value["verifier"])
    except (ValueError, TypeError, KeyError, InvalidInput) as error:
        raise ConfigError(f"{place}: is no case: {error}") from error
