"""What an adapter's policy may say of data, training and gate. Known to the server, which never trains."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from polyad.adapters_store.errors import InvalidInput

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, le=1e6)]
Amount = Annotated[float, Field(ge=0, le=1e6)]
SuiteName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]


CuratorName = Literal["adaptive_threshold", "clear", "grape", "perplexity", "s3ft"]
OptionName = Literal["hft", "ggpo", "masked_thought", "task_weights", "ewc", "kl_to_parent", "averaging"]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Curator(Section):
    """A curator by its name in serve/learn/data/curators, with its options."""

    name: CuratorName
    options: dict[str, float | int | str | bool] = {}


class DataSettings(Section):
    """`held_out` is the share of prompts that no run ever trains on; `replay` how many earlier examples are kept for
    later runs, `replay_ratio` how many of them join each new one. `approved` also trains on liked answers as they are.
    A user's examples are at most `user_share` of a run's, and `user_cap`. `trust` is the share of a user's verdicts
    that must not be against those of others on the same answers. An answer that one user alone teaches to more than
    `same_answer` prompts of a run is left out."""

    held_out: Annotated[float, Field(ge=0, le=0.5)] = 0.2
    replay: Annotated[int, Field(ge=0, le=10_000)] = 200
    replay_ratio: Annotated[float, Field(ge=0, le=10)] = 1.0
    approved: bool = False
    user_share: Annotated[float, Field(gt=0, le=1)] = 0.5
    user_cap: Annotated[int, Field(ge=1, le=100_000)] = 200
    trust: Share = 0.5
    same_answer: Annotated[int, Field(ge=1, le=100_000)] = 5
    max_events: Annotated[int, Field(ge=1, le=100_000)] = 5_000
    mask: Annotated[list[Literal["secrets", "email", "phone", "card", "iban", "address"]], Field(max_length=6)] = [
        "secrets",
        "card",
        "iban",
    ]
    curators: Annotated[list[Curator], Field(max_length=8)] = []


class TrainSettings(Section):
    """The defaults suit LoRA on models of 100 million to 10 billion parameters: `learning_rate` is for LoRA, and
    three epochs over a few hundred examples neither diverge nor do nothing. Small models learn more with 1e-3."""

    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    epochs: Annotated[int, Field(ge=1, le=100)] = 3
    batch: Annotated[int, Field(ge=2, le=256)] = 8
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 2e-4
    warmup: Share = 0.1
    weight_decay: Share = 0.0
    clip: Positive = 1.0
    max_length: Annotated[int, Field(ge=16, le=131_072)] = 1024
    beta: Annotated[float, Field(gt=0, le=10)] = 0.1
    preference: Literal["sigmoid", "ipo", "robust"] = "sigmoid"
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    desirable: Amount = 1.0
    undesirable: Amount = 1.0
    sft_weight: Amount = 1.0
    dpo_weight: Amount = 1.0
    kto_weight: Amount = 1.0
    save_every: Annotated[int, Field(ge=1, le=10_000)] = 20
    options: dict[OptionName, dict[str, float | int | str | bool]] = {}


class SuiteSettings(Section):
    """A suite of the operator's by its name, and by how much its score may be lower than the parent's. `refusals`
    suites hold harmful prompts: what counts is how often they are refused."""

    name: SuiteName
    max_drop: Share = 0.02
    kind: Literal["skill", "refusals"] = "skill"


class GateSettings(Section):
    """A candidate must be better than its parent on at least `min_held_out` held-out examples, by a paired test at
    `confidence`. The other bounds: `max_intruders` a matrix, `max_norm_ratio` between the norms of candidate and
    parent, `max_weight_share` of the base's norm in any module, `max_drift` in nats a token from the base."""

    confidence: Annotated[float, Field(ge=0.5, lt=1)] = 0.9
    min_held_out: Annotated[int, Field(ge=1, le=10_000)] = 8
    max_held_out: Annotated[int, Field(ge=1, le=10_000)] = 200
    suites: Annotated[list[SuiteSettings], Field(max_length=32)] = []
    suite_confidence: Annotated[float, Field(ge=0.5, lt=1)] = 0.95
    max_new_tokens: Annotated[int, Field(ge=1, le=4096)] = 64
    max_intruders: Annotated[float | None, Field(ge=0)] = None
    max_norm_ratio: Annotated[float | None, Field(gt=0)] = 20.0
    max_weight_share: Annotated[float | None, Field(gt=0)] = 1.0
    max_drift: Annotated[float | None, Field(ge=0)] = None


class LearnSettings(Section):
    data: DataSettings = DataSettings()
    train: TrainSettings = TrainSettings()
    gate: GateSettings = GateSettings()

    @classmethod
    def read(cls, settings: dict[str, Any]) -> "LearnSettings":
        """Raises InvalidInput, which names the first setting that is wrong."""
        try:
            return cls.model_validate(settings)
        except ValidationError as error:
            problem = error.errors()[0]
            place = ".".join(map(str, ("settings", *problem["loc"])))
            allowed = problem["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
            raise InvalidInput(place, problem["input"], allowed) from error
