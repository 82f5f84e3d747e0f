"""From feedback to examples: KTO for thumbs and scores, DPO for preferences and edits, SFT for corrections."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from polyad.adapters_store.feedback import Feedback, Interaction, Queued
from polyad.serve.learn.data.example import Decision, Example

UP_FROM = 4
DOWN_TO = 2


@dataclass
class Converted:
    """`poison` are the entries that can never become an example, with the reason."""

    examples: list[Example] = field(default_factory=list)
    decisions: list[Decision] = field(default_factory=list)
    poison: list[tuple[str, str]] = field(default_factory=list)


def convert(queued: Iterable[Queued], interactions: Mapping[str, Interaction], approved: bool = False) -> Converted:
    """Each event with its interaction; `approved` makes liked answers SFT examples too."""
    converted = Converted()
    for event in queued:
        feedback = event.feedback
        interaction = interactions.get(feedback.response)
        if interaction is None:
            reason = "its interaction is no longer kept"
        elif max(feedback.answer, feedback.preferred or 0) >= len(interaction.answers):
            reason = f"it is on an answer that the response does not have: {len(interaction.answers)} answers"
        else:
            _convert(feedback, interaction, approved, converted)
            continue
        converted.poison.append((event.entry, reason))
        converted.decisions.append(Decision(event=feedback.id, kept=False, by="events", reason=reason))
    return converted


def _convert(feedback: Feedback, interaction: Interaction, approved: bool, converted: Converted) -> None:
    examples = [*_corrected(feedback, interaction), *_preferred(feedback, interaction)]
    verdict = _verdict(feedback)
    # An edit says more of the same answer than the thumb beside it.
    if verdict is not None and feedback.correction is None:
        examples += _judged(feedback, interaction, verdict, approved)
    if not examples:
        reason = "it says nothing to learn from: no thumb, correction or preference, or a middling score"
        converted.decisions.append(Decision(event=feedback.id, kept=False, by="events", reason=reason))
    converted.examples += examples


def _verdict(feedback: Feedback) -> bool | None:
    if feedback.thumb is not None:
        return feedback.thumb == "up"
    if feedback.score is None or DOWN_TO < feedback.score < UP_FROM:
        return None
    return feedback.score >= UP_FROM


def _corrected(feedback: Feedback, interaction: Interaction) -> list[Example]:
    if feedback.correction is None:
        return []
    original = interaction.answers[feedback.answer]
    gold = _example("sft", feedback, interaction, answer=feedback.correction)
    better = {"answer": feedback.correction, "rejected": original.text, "rejected_ended": original.ended}
    return [gold, _example("dpo", feedback, interaction, **better)]


def _preferred(feedback: Feedback, interaction: Interaction) -> list[Example]:
    if feedback.preferred is None:
        return []
    best = interaction.answers[feedback.preferred]
    return [
        _example(
            "dpo",
            feedback,
            interaction,
            answer=best.text,
            ended=best.ended,
            rejected=other.text,
            rejected_ended=other.ended,
        )
        for other in dict.fromkeys(interaction.answers)
        if other.text != best.text
    ]


def _judged(feedback: Feedback, interaction: Interaction, liked: bool, approved: bool) -> list[Example]:
    answer = interaction.answers[feedback.answer]
    fields = {"answer": answer.text, "ended": answer.ended}
    examples = [_example("kto", feedback, interaction, desirable=liked, **fields)]
    if liked and approved:
        examples.append(_example("sft", feedback, interaction, **fields))
    return examples


def _example(kind: str, feedback: Feedback, interaction: Interaction, **fields: object) -> Example:
    users = dict.fromkeys(user for user in (interaction.user, feedback.user) if user is not None)
    return Example.model_validate(
        {
            "kind": kind,
            "prompt": interaction.prompt,
            "event": feedback.id,
            "response": feedback.response,
            "users": tuple(users),
            "version": interaction.version,
            "task": feedback.labels[0] if feedback.labels else "",
            "expires": interaction.expires,
            **fields,
        }
    )
