"""Every kind of adapter that PEFT makes, through the server: what PEFT says, token for token; and blends across kinds
against a model whose weights were changed densely by what PEFT merges."""

import copy
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from peft import AdaLoraConfig, IA3Config, LoraConfig, PeftConfig, ShiraConfig, VeraConfig, get_peft_model
from peft.utils.warning import PeftWarning
from transformers import AutoModelForCausalLM

from tests.fixtures.adapters import CONFIG, WEIGHTS
from tests.fixtures.answers import TIE, Answer, ask

# PEFT makes sparse tensors without saying whether they are to be checked, of which torch warns.
torch.sparse.check_sparse_tensor_invariants.enable()

PROMPT = "The lighthouse keeper wrote in his diary that"
TOKENS = 16
SOME = ["q_proj", "v_proj", "down_proj"]
CONFIGS: dict[str, Callable[[], PeftConfig]] = {
    "dora": lambda: LoraConfig(r=4, lora_alpha=8, use_dora=True, target_modules=SOME),
    "lora_bias": lambda: LoraConfig(r=4, lora_alpha=8, lora_bias=True, target_modules=SOME),
    "pissa": lambda: LoraConfig(
        r=4, lora_alpha=4, init_lora_weights="pissa_niter_4", target_modules=["q_proj", "v_proj"]
    ),
    "ia3": lambda: IA3Config(target_modules=["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"]),
    "adalora": lambda: AdaLoraConfig(init_r=6, target_r=4, lora_alpha=8, total_step=10, target_modules=SOME),
    "vera": lambda: VeraConfig(r=8, target_modules=["o_proj"], save_projection=True, vera_dropout=0.0),
    "shira": lambda: ShiraConfig(r=4, target_modules=["q_proj", "down_proj"], random_seed=3),
}
# What a random parameter is drawn with, by the end of its name: enough to change the answer, too little to ruin it.
SIZES = {
    "lora_B.kind.weight": 0.15,
    "lora_B.kind.bias": 0.3,
    "lora_B.kind": 0.15,
    "lora_E.kind": 0.5,
    "lora_magnitude_vector.kind.weight": 0.2,
    "ia3_l.kind": 0.4,
    "vera_lambda_b.kind": 6.0,
    "shira_weight.kind": 0.15,
}


class Kind:
    """An adapter of one kind, with random values, as PEFT made and saved it."""

    def __init__(self, kind: str, base_model: Path, folder: Path) -> None:
        torch.manual_seed(5)
        self.name = kind
        base = AutoModelForCausalLM.from_pretrained(base_model, dtype=torch.float32).eval()
        self.before = {name: value.clone() for name, value in base.named_parameters()}
        self.model: Any = get_peft_model(base, CONFIGS[kind](), "kind").eval()
        self.initial: Path | None = None
        if kind == "pissa":
            # The factors before training are half of such an adapter: its base is not the one that is served.
            self.model.save_pretrained(str(folder / "initial"))
            self.initial = folder / "initial" / "kind"
        for name, parameter in self.model.named_parameters():
            size = next((size for end, size in SIZES.items() if name.endswith(end)), None)
            if size is not None and "kind" in name:
                parameter.data += size * torch.randn_like(parameter)
        self.model.save_pretrained(str(folder))
        self.folder = folder / "kind"

    @torch.inference_mode()
    def logits(self, answer: Answer) -> torch.Tensor:
        ids = torch.tensor([[*answer.prompt, *answer.tokens]])
        return self.model(input_ids=ids).logits[0, len(answer.prompt) - 1 : -1]

    def dense(self) -> dict[str, torch.Tensor]:
        """dW of every parameter, by PEFT's own merge."""
        merged = copy.deepcopy(self.model).merge_and_unload()
        changed = {name: value - self.before[name] for name, value in merged.named_parameters()}
        return {name: change for name, change in changed.items() if change.any()}


def shortfall(logits: torch.Tensor, answer: Answer) -> float:
    said = logits.gather(1, torch.tensor(answer.tokens).unsqueeze(1)).squeeze(1)
    return float((logits.max(1).values - said).max())


@pytest.fixture(scope="module")
def make_kind(base_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Kind]]:
    made: dict[str, Kind] = {}

    def make(kind: str) -> Kind:
        if kind not in made:
            threads = torch.get_num_threads()
            torch.set_num_threads(1)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", PeftWarning)  # what cannot be merged can be served
                made[kind] = Kind(kind, base_model, tmp_path_factory.mktemp(kind))
            torch.set_num_threads(threads)
        return made[kind]

    yield make


def push(client: httpx.Client, name: str, kind: Kind) -> dict[str, Any]:
    files = {"config": (kind.folder / CONFIG).read_bytes(), "weights": (kind.folder / WEIGHTS).read_bytes()}
    if kind.initial is not None:
        files["initial"] = (kind.initial / WEIGHTS).read_bytes()
    answer = client.post("/v1/adapters", data={"name": name}, files=files)
    assert answer.is_success, answer.text
    version: dict[str, Any] = answer.json()
    return version


@pytest.mark.parametrize("kind", CONFIGS)
def test_answer_is_pefts(
    kind: str, client: httpx.Client, base: Any, new_name: Callable[[], str], make_kind: Callable[[str], Kind]
) -> None:
    made, name = make_kind(kind), new_name()
    assert push(client, name, made)["kind"] in (kind, "lora")
    answer = ask(client, name, PROMPT, TOKENS)
    assert shortfall(made.logits(answer), answer) < TIE
    plain = ask(client, base.name, PROMPT, TOKENS)
    assert shortfall(made.logits(plain), plain) > 5 * TIE, "and the comparison would have seen the base model"


@pytest.mark.parametrize("pair", [("dora", "ia3"), ("ia3", "shira"), ("adalora", "dora")], ids="+".join)
def test_blend_across_kinds_is_a_densely_changed_model(
    pair: tuple[str, str],
    client: httpx.Client,
    base_model: Path,
    new_name: Callable[[], str],
    make_kind: Callable[[str], Kind],
) -> None:
    weights = (0.6, -0.5)
    kinds, names = [make_kind(kind) for kind in pair], [new_name() for _ in pair]
    for name, kind in zip(names, kinds, strict=True):
        push(client, name, kind)
    model = f"{names[0]}*{weights[0]} + {names[1]}*{weights[1]}"
    answer = ask(client, model, PROMPT, TOKENS)
    changed = _changed(base_model, [kind.dense() for kind in kinds], weights)
    with torch.inference_mode():
        ids = torch.tensor([[*answer.prompt, *answer.tokens]])
        logits = changed(input_ids=ids).logits[0, len(answer.prompt) - 1 : -1]
    assert shortfall(logits, answer) < TIE
    assert max(shortfall(kind.logits(answer), answer) for kind in kinds) > 5 * TIE


def _changed(base_model: Path, changes: list[dict[str, torch.Tensor]], weights: tuple[float, float]) -> Any:
    model = AutoModelForCausalLM.from_pretrained(base_model, dtype=torch.float32).eval()
    parameters: Mapping[str, torch.nn.Parameter] = dict(model.named_parameters())
    for change, weight in zip(changes, weights, strict=True):
        for name, value in change.items():
            parameters[name].data += weight * value
    return model
