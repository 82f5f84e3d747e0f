"""Host memory and slots of one worker, around vLLM's own layers of a tiny Llama: from the delta file to what a layer
gives, against dense weights in float64."""

import random
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import torch
from vllm.config import set_current_vllm_config
from vllm.distributed import (
    cleanup_dist_env_and_memory,
    ensure_model_parallel_initialized,
    init_distributed_environment,
)
from vllm.lora.layers import LoRAMapping
from vllm.lora.request import LoRARequest
from vllm.model_executor.model_loader.utils import initialize_model, process_weights_after_loading
from vllm.utils.torch_utils import set_default_torch_dtype

from polyad.adapters_store.base_model import BaseModel
from polyad.adapters_store.delta import Delta, LowRank, ModuleDelta, Sparse, write_delta
from polyad.serve.config import Settings
from polyad.serve.engine.arguments import engine_arguments, serve_arguments
from polyad.serve.engine.composition import encode
from polyad.serve.engine.delta_manager import DeltaManager
from polyad.serve.engine.host import FAILED, LOADING, READY
from tests.kernels.oracle import Randomness

SLOTS = 2
LAYERS = 2
# vLLM's fused modules, and the columns of their output that each module of the Hugging Face model owns.
FUSED = {
    "self_attn.qkv_proj": {"self_attn.q_proj": (0, 32), "self_attn.k_proj": (32, 48), "self_attn.v_proj": (48, 64)},
    "self_attn.o_proj": {"self_attn.o_proj": (0, 32)},
    "mlp.gate_up_proj": {"mlp.gate_proj": (0, 48), "mlp.up_proj": (48, 96)},
    "mlp.down_proj": {"mlp.down_proj": (0, 32)},
}
EVERY = tuple(module for columns in FUSED.values() for module in columns)
BASE = 0

# A rank, or one of the other terms.
Kind = int | str


# A token of a batch: the weight of each version.
Mixture = Mapping[int, float]


class Worker:
    """What the model runner of one worker holds."""

    def __init__(
        self,
        manager: DeltaManager,
        model: torch.nn.Module,
        weights: Mapping[str, torch.Tensor],
        base: BaseModel,
        folder: Path,
    ) -> None:
        self.manager = manager
        self.deltas: dict[int, Delta] = {}
        self._model = model
        self._weights = weights
        self._base = base
        self._folder = folder
        self._compositions: dict[str, int] = {}

    def write(self, version: int, kinds: Mapping[str, Kind]) -> Path:
        """A delta file with these kinds by module, `layer:` before a module's name where only one layer has it."""
        random = Randomness(version)
        modules = {}
        for module, (outputs, inputs) in self._base.linears.items():
            layer, _, name = module.removeprefix("model.layers.").partition(".")
            if kind := kinds.get(name) or kinds.get(f"{layer}:{name}"):
                modules[module] = change(random, outputs, inputs, kind)
        self.deltas[version] = Delta(modules)
        path = self._folder / f"{version}"
        write_delta(self.deltas[version], path)
        return path

    def load(self, version: int, path: Path) -> str:
        self.manager.host.load(version, str(path))
        deadline = time.monotonic() + 60
        while (state := self.manager.host.state(version)) == LOADING:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        return state

    def have(self, version: int, kinds: Mapping[str, Kind] | None = None) -> None:
        assert self.load(version, self.write(version, kinds or dict.fromkeys(EVERY, 4))) == READY

    def step(self, *batch: int | Mixture) -> None:
        """What the model runner does before a forward pass: one entry for each token."""
        texts = [encode(list(mixture_of(token).items())) for token in batch]
        ids = [text and self._compositions.setdefault(text, 100 + len(self._compositions)) for text in texts]
        requests = {
            LoRARequest(lora_name=text, lora_int_id=found, lora_path=text, base_model_name=text)
            for text, found in zip(texts, ids, strict=True)
            if found
        }
        mapping = tuple(found or 0 for found in ids)
        self.manager.set_active_adapters(requests, LoRAMapping(mapping, mapping, is_prefill=True))

    def check(self, *batch: int | Mixture) -> None:
        """Every layer gives each token what its dense weights give, and those of the base model the very same bits."""
        for layer in range(LAYERS):
            for fused, columns in FUSED.items():
                name = f"model.layers.{layer}.{fused}"
                linear, weight = self._model.get_submodule(name), self._weights[f"{name}.weight"].double()
                x = torch.randn(len(batch), linear.input_size)
                plain, found = linear.quant_method._product(x, None), linear(x)[0]
                for token, mixture in enumerate(map(mixture_of, batch)):
                    if not mixture:
                        assert torch.equal(found[token], plain[token])
                    expected = self._expected(layer, columns, weight, mixture, x[token].double())
                    torch.testing.assert_close(found[token].double(), expected, atol=1e-4, rtol=1e-4)

    def _expected(
        self,
        layer: int,
        columns: Mapping[str, tuple[int, int]],
        weight: torch.Tensor,
        mixture: Mixture,
        x: torch.Tensor,
    ) -> torch.Tensor:
        dense, bias = weight.clone(), torch.zeros(len(weight)).double()
        for module, (begin, end) in columns.items():
            for version, share in mixture.items():
                if change := self.deltas[version].modules.get(f"model.layers.{layer}.{module}"):
                    added = dense_change(change, weight[begin:end])
                    dense[begin:end] += share * added[0]
                    bias[begin:end] += share * added[1]
        return dense @ x + bias

    @property
    def in_slots(self) -> set[int]:
        return set(self.manager._slots.versions)


def mixture_of(token: int | Mixture) -> Mixture:
    return ({token: 1.0} if token else {}) if isinstance(token, int) else token


def change(random: Randomness, outputs: int, inputs: int, kind: Kind) -> ModuleDelta:
    """A low-rank term of a rank, or a term of a kind."""
    if isinstance(kind, int):
        a, b = random.numbers(kind, inputs), random.numbers(outputs, kind)
        return ModuleDelta(low_rank=LowRank(a, b, 0.5))
    if kind == "sparse":
        mask = random.mask(outputs, inputs, share=0.1)
        mask[0, 0] = True
        indices = mask.flatten().nonzero().flatten().int()
        return ModuleDelta(sparse=Sparse(indices, random.numbers(len(indices)), (outputs, inputs)))
    size = inputs if kind == "column_scale" else outputs
    return ModuleDelta(**{kind: random.numbers(size)})


def dense_change(found: ModuleDelta, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """dW and db in float64, from the definition."""
    dense, bias = torch.zeros_like(weight), torch.zeros(len(weight)).double()
    if found.low_rank is not None:
        dense += found.low_rank.scale * found.low_rank.b.double() @ found.low_rank.a.double()
    if found.sparse is not None:
        dense.view(-1)[found.sparse.indices.long()] += found.sparse.values.double()
    if found.row_scale is not None:
        dense += found.row_scale.double().unsqueeze(1) * weight
    if found.column_scale is not None:
        dense += weight * found.column_scale.double()
    if found.bias is not None:
        bias += found.bias.double()
    return dense, bias


@pytest.fixture
def worker(tiny_model: Path, tmp_path: Path, quiet_vllm: None) -> Iterator[Worker]:
    base = BaseModel.from_folder(tiny_model, "tiny")
    settings = Settings.load(slots=SLOTS, max_rank=8, state_dir=tmp_path)
    options = ["--skip-tokenizer-init", "--enforce-eager", "--dtype", "float32"]
    config = engine_arguments(serve_arguments(str(tiny_model), options, settings, base)).create_engine_config()
    with set_current_vllm_config(config):
        init_distributed_environment(1, 0, f"file://{tmp_path}/rendezvous", 0, "gloo")
        ensure_model_parallel_initialized(1, 1)
        with set_default_torch_dtype(torch.float32):
            model = initialize_model(vllm_config=config)
        for parameter in model.parameters():
            parameter.data.normal_(0, 0.1)
        weights = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        process_weights_after_loading(model, config.model_config, torch.device("cpu"))
        manager = DeltaManager(config, torch.device("cpu"), model.embedding_modules)
        assert manager.create_lora_manager(model, config) is model
    yield Worker(manager, model, weights, base, tmp_path)
    manager.host._reader.shutdown()
    cleanup_dist_env_and_memory()


def test_every_kind_of_layer_adds_its_version(worker: Worker) -> None:
    worker.have(1)
    worker.step(1, 1, 1)
    worker.check(1, 1, 1)


@pytest.mark.parametrize(
    "ranks",
    [
        {"self_attn.q_proj": 4},
        {"self_attn.k_proj": 1, "self_attn.v_proj": 8},
        {"mlp.up_proj": 3},
        {"0:mlp.down_proj": 8, "1:self_attn.o_proj": 2},
        {"0:self_attn.q_proj": 8, "1:self_attn.q_proj": 1, "mlp.gate_proj": 5},
        dict(zip(EVERY, (1, 2, 3, 4, 5, 6, 8), strict=True)),
    ],
    ids=str,
)
def test_ranks_and_targets_may_differ_from_module_to_module(worker: Worker, ranks: dict[str, Kind]) -> None:
    worker.have(1, ranks)
    worker.have(2)
    worker.step(1, BASE, 2, 1)
    worker.check(1, BASE, 2, 1)


def test_slot_keeps_nothing_of_its_former_owner(worker: Worker) -> None:
    for version in (1, 2):
        worker.have(version, dict.fromkeys(EVERY, 8))
    worker.step(1, 2)
    for version, ranks in ((3, {"self_attn.q_proj": 1}), (4, {"mlp.up_proj": 2, "self_attn.v_proj": 1})):
        worker.have(version, ranks)
    worker.step(3, 4, BASE)
    worker.check(3, 4, BASE)
    worker.step(4, 1)
    worker.check(4, 1)


def test_warm_up_of_the_engine_leaves_nothing_behind(worker: Worker) -> None:
    with worker.manager.dummy_lora_cache():
        for slot in range(1, SLOTS + 1):
            request = LoRARequest(lora_name=f"warmup_{slot}", lora_int_id=slot, lora_path="/not/a/real/path")
            assert worker.manager.add_dummy_lora(request, rank=worker.manager.get_dummy_lora_warmup_rank(8))
            worker.manager.set_active_adapters({request}, LoRAMapping((slot,), (slot,), is_prefill=True))
            worker.check(BASE)
    worker.manager.remove_all_adapters()
    worker.have(11, {"self_attn.k_proj": 2})
    worker.step(11, BASE)
    worker.check(11, BASE)


def test_versions_of_the_batch_are_never_evicted_for_each_other(worker: Worker) -> None:
    for version in (1, 2, 3):
        worker.have(version)
    worker.step(1, 2)
    worker.step(1)
    worker.step(1, 3)
    assert worker.in_slots == {1, 3}
    worker.check(1, 3)


@pytest.mark.parametrize("seed", range(3))
def test_random_batches_over_more_versions_than_slots(worker: Worker, seed: int) -> None:
    chance = random.Random(seed)
    for version in range(1, 6):
        modules = chance.sample(EVERY, chance.randint(1, len(EVERY)))
        worker.have(version, {module: chance.randint(1, 8) for module in modules})
    for _ in range(8):
        choice = [BASE, *chance.sample(range(1, 6), SLOTS)]
        batch = [chance.choice(choice) for _ in range(chance.randint(1, 9))]
        worker.step(*batch)
        worker.check(*batch)


def test_a_step_needs_no_file(worker: Worker) -> None:
    """Everything was copied from the file before: it may change or go."""
    path = worker.write(1, dict.fromkeys(EVERY, 4))
    assert worker.load(1, path) == READY
    with path.open("r+b") as file:
        file.write(b"\xff" * path.stat().st_size)
    path.unlink()
    worker.step(1)
    worker.check(1)


def test_step_takes_a_version_that_is_read_but_not_yet_asked_about(worker: Worker) -> None:
    worker.manager.host.load(1, str(worker.write(1, {"mlp.up_proj": 2})))
    worker.step(1)
    worker.check(1)
    assert worker.manager.host.state(1) == READY


@pytest.mark.parametrize("damage", ["absent", "truncated", "no delta"])
def test_failed_load_says_why_and_changes_nothing(worker: Worker, damage: str) -> None:
    worker.have(1)
    worker.step(1)
    path = worker.write(2, {"mlp.up_proj": 2})
    whole = path.read_bytes()
    if damage == "absent":
        path.unlink()
    else:
        path.write_bytes(whole[:-100] if damage == "truncated" else b"\x02\0\0\0\0\0\0\0{}")
    state = worker.load(2, path)
    assert state.startswith(f"{FAILED}{'FileNotFoundError' if damage == 'absent' else 'CorruptBlob'}")
    assert worker.in_slots == {1}
    worker.check(1)
    path.write_bytes(whole)
    assert worker.load(2, path) == READY
    worker.step(1, 2)
    worker.check(1, 2)


def test_dropped_version_frees_its_slot_and_its_memory(worker: Worker) -> None:
    for version in (1, 2):
        worker.have(version)
    worker.step(1, 2)
    worker.manager.drop([1, 77])
    assert worker.in_slots == {2}
    assert worker.manager.list_adapters() == {2}
    assert worker.manager.host.state(1).startswith(FAILED)
    worker.have(3, {"self_attn.q_proj": 1})
    worker.step(2, 3)
    worker.check(2, 3)


def test_dropped_while_it_is_read_never_arrives(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    read: Callable[..., object] = worker.manager.host._read
    monkeypatch.setattr(worker.manager.host, "_read", lambda *args: (time.sleep(0.05), read(*args))[1])
    for version in (1, 2):
        worker.manager.host.load(version, str(worker.write(version, {"mlp.up_proj": 2})))
    assert worker.manager.host.state(1) == LOADING
    worker.manager.drop([1, 2])
    time.sleep(0.2)
    assert worker.manager.list_adapters() == set()
    assert worker.manager.host.state(1).startswith(FAILED)


def test_asking_twice_reads_once(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = []
    read: Callable[..., object] = worker.manager.host._read
    monkeypatch.setattr(worker.manager.host, "_read", lambda *args: (reads.append(args), read(*args))[1])
    path = worker.write(1, {"mlp.up_proj": 2})
    for _ in range(3):
        worker.manager.host.load(1, str(path))
    assert worker.load(1, path) == READY
    worker.manager.host.load(1, str(path))
    assert len(reads) == 1


OTHER_KINDS = ("sparse", "row_scale", "column_scale", "bias")


@pytest.mark.parametrize("kind", OTHER_KINDS)
def test_every_kind_of_term_alone_and_blended(worker: Worker, kind: str) -> None:
    worker.have(1, dict.fromkeys(EVERY, kind))
    worker.have(2)
    for batch in ((1, BASE, 1), (2, 1, {1: 0.7, 2: 0.3}, {1: -1.0}, BASE), ({1: 0.5, 2: 0.5},) * 5):
        worker.step(*batch)
        worker.check(*batch)


def test_different_kinds_in_the_slices_of_one_layer(worker: Worker) -> None:
    kinds = dict(
        zip(EVERY, ("sparse", "row_scale", 4, "column_scale", "column_scale", "bias", "row_scale"), strict=True)
    )
    worker.have(1, kinds)
    worker.have(2, dict(zip(EVERY, reversed(kinds.values()), strict=True)))
    batch = (1, 2, {1: 0.7, 2: 0.3}, BASE, {1: -2.0, 2: 0.25})
    worker.step(*batch)
    worker.check(*batch)


@pytest.mark.parametrize("seed", range(3))
def test_random_blends_while_slots_are_evicted_and_reused(worker: Worker, seed: int) -> None:
    chance = random.Random(seed)
    for version in range(1, 6):
        modules = chance.sample(EVERY, chance.randint(1, len(EVERY)))
        worker.have(version, {module: chance.choice([1, 3, 8, *OTHER_KINDS]) for module in modules})
    for _ in range(8):
        pair = chance.sample(range(1, 6), SLOTS)
        mixtures: list[int | Mixture] = [BASE, *pair, *({v: chance.uniform(-1, 1) for v in pair} for _ in range(4))]
        batch = [chance.choice(mixtures) for _ in range(chance.randint(1, 12))]
        worker.step(*batch)
        worker.check(*batch)


def test_any_number_of_weightings_takes_no_more_slots_or_memory(worker: Worker) -> None:
    for version in (1, 2):
        worker.have(version)
    worker.step(1, 2)
    revision = worker.manager._slots.revision
    batch = [{1: 0.01 * number, 2: 1 - 0.01 * number} for number in range(1, 65)]
    worker.step(*batch)
    worker.check(*batch)
    assert worker.manager._slots.revision == revision


def test_batch_of_more_versions_than_slots_is_an_error_and_changes_nothing(worker: Worker) -> None:
    for version in (1, 2, 3):
        worker.have(version)
    worker.step(1, 2)
    with pytest.raises(ValueError, match="needs 3 versions, there are 2 slots"):
        worker.step(1, 2, 3)
    worker.check(1, 2)


def test_module_that_the_engine_does_not_have_fails_the_load(worker: Worker) -> None:
    path = worker._folder / "foreign"
    term = LowRank(torch.ones(1, 32), torch.ones(32, 1), 1.0)
    write_delta(Delta({"model.layers.7.mlp.down_proj": ModuleDelta(low_rank=term)}), path)
    state = worker.load(9, path)
    assert state == f"{FAILED}ValueError: the engine has no layer for model.layers.7.mlp.down_proj"


def test_values_that_overflow_in_the_engines_dtype_fail_the_load(worker: Worker) -> None:
    path = worker._folder / "huge"
    term = LowRank(torch.full((1, 32), 1e30), torch.full((32, 1), 1e30), 1e9)
    write_delta(Delta({"model.layers.0.self_attn.q_proj": ModuleDelta(low_rank=term)}), path)
    assert "values overflow in the engine's torch.float32" in worker.load(9, path)
