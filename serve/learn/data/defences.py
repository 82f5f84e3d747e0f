"""Against feedback that is wrong on purpose or by mistake: disagreement, users who are against all others, floods, and
answers that one user teaches to everything."""

from collections import Counter, defaultdict
from collections.abc import Sequence

from polyad.serve.learn.data.example import Decision, Example, digest_of
from polyad.serve.learn.settings import DataSettings

# A user who was contradicted this often or less may have had bad luck.
_MIN_COMPARED = 3
# Where fewer give feedback, what one of them alone says is nothing strange.
_CROWD = 3

Kept = tuple[list[Example], list[Decision]]
# For each answer to a prompt: who is against it, and who is for it.
Votes = defaultdict[str, tuple[set[str], set[str]]]


def deduplicated(examples: Sequence[Example], _: DataSettings) -> Kept:
    """One example for each thing that is taught, with the users of all."""
    first: dict[str, Example] = {}
    decisions = []
    for example in examples:
        if example.id not in first:
            first[example.id] = example
            continue
        kept = first[example.id]
        users = tuple(dict.fromkeys((*kept.users, *example.users)))
        first[example.id] = kept.model_copy(update={"users": users, "expires": min(kept.expires, example.expires)})
        decisions.append(dropped(example, "duplicates", f"event {kept.event} taught the same"))
    return list(first.values()), decisions


def agreeing(examples: Sequence[Example], settings: DataSettings) -> Kept:
    """Without the verdicts of users who are mostly against others, and without those that are outvoted.

    Two verdicts meet where they are on the same answer to the same prompt. A tie drops both sides.
    """
    outliers = _outliers(examples, settings.trust)
    kept, decisions = [], []
    for example in examples:
        user = example.users[-1] if example.users else ""
        if user in outliers:
            decisions.append(dropped(example, "outliers", f"its user is against others too often ({outliers[user]})"))
        else:
            kept.append(example)
    votes = _votes(kept)
    agreed = []
    for example in kept:
        mine, others = _sides(example, votes)
        if example.kind == "kto" and len(mine) <= len(others):
            decisions.append(dropped(example, "agreement", f"{len(mine)} say so, {len(others)} the contrary"))
        else:
            agreed.append(example)
    return agreed, decisions


def without_slogans(examples: Sequence[Example], settings: DataSettings) -> Kept:
    """Without an answer that one user alone teaches, to more than `same_answer` prompts; where three or more users are.

    A few examples with one answer drown many with different ones, so that a cap on a user's share does not help.
    """
    teachers: defaultdict[str, set[str]] = defaultdict(set)
    prompts: defaultdict[str, set[str]] = defaultdict(set)
    for example in filter(_teaches, examples):
        teachers[_said(example)].add(_voter(example))
        prompts[_said(example)].add(example.group)
    if len({example.users[-1] for example in examples if example.users}) < _CROWD:
        return list(examples), []
    slogans = {
        answer: len(prompts[answer])
        for answer, users in teachers.items()
        if len(users) == 1 and len(prompts[answer]) > settings.same_answer
    }
    kept, decisions = [], []
    for example in examples:
        count = slogans.get(_said(example)) if _teaches(example) else None
        if count is None:
            kept.append(example)
        else:
            decisions.append(dropped(example, "slogans", f"one user alone teaches this answer, to {count} prompts"))
    return kept, decisions


def capped(examples: Sequence[Example], settings: DataSettings) -> Kept:
    """At most `user_cap` examples of one user, and `user_share` of all where several gave feedback; drawn by chance."""
    by_user: defaultdict[str, list[Example]] = defaultdict(list)
    for example in examples:
        by_user[example.users[-1] if example.users else ""].append(example)
    known = [user for user in by_user if user]
    kept_ids = set()
    for user, own in by_user.items():
        limit = len(own)
        if user:
            others = len(examples) - len(own)
            share = settings.user_share
            fair = round(others * share / (1 - share)) if len(known) > 1 and share < 1 else len(own)
            limit = min(settings.user_cap, max(1, fair))
        drawn = sorted(own, key=lambda example: digest_of([user, example.id]))[:limit]
        kept_ids |= {(example.event, example.id) for example in drawn}
    decisions = [
        dropped(example, "caps", "its user has more examples than one may have in a run")
        for example in examples
        if (example.event, example.id) not in kept_ids
    ]
    return [example for example in examples if (example.event, example.id) in kept_ids], decisions


def dropped(example: Example, by: str, reason: str) -> Decision:
    """The record of an example that was left out."""
    return Decision(event=example.event, example=example.id, kind=example.kind, kept=False, by=by, reason=reason)


def _teaches(example: Example) -> bool:
    return example.kind != "kto" or bool(example.desirable)


def _said(example: Example) -> str:
    return " ".join(example.answer.split()).casefold()


def _subject(example: Example) -> str:
    return digest_of([example.group, example.answer])


def _voter(example: Example) -> str:
    # Each user counts once; of those without a name every event counts.
    return f"user {example.users[-1]}" if example.users else f"event {example.event}"


def _votes(examples: Sequence[Example]) -> Votes:
    votes: Votes = defaultdict(lambda: (set(), set()))
    for example in examples:
        if example.kind == "kto":
            votes[_subject(example)][bool(example.desirable)].add(_voter(example))
    return votes


def _sides(example: Example, votes: Votes) -> tuple[set[str], set[str]]:
    downs, ups = votes[_subject(example)]
    return (ups, downs) if example.desirable else (downs, ups)


def _outliers(examples: Sequence[Example], trust: float) -> dict[str, str]:
    votes = _votes(examples)
    compared: Counter[str] = Counter()
    against: Counter[str] = Counter()
    for example in examples:
        if example.kind != "kto" or not example.users:
            continue
        mine, others = _sides(example, votes)
        same = len(mine - {_voter(example)})
        if same + len(others):
            compared[example.users[-1]] += 1
            against[example.users[-1]] += len(others) > same
    return {
        user: f"{against[user]} of {compared[user]}"
        for user in compared
        if compared[user] >= _MIN_COMPARED and 1 - against[user] / compared[user] < trust
    }
