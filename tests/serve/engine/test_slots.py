"""Host memory and slots of one worker, around vLLM's own layers of a tiny Llama: from the delta file to what a layer
adds to its output, against B A x in float64."""

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
from vllm.platforms import current_platform
from vllm.utils.torch_utils import set_default_torch_dtype

from polyad.adapters_store.base_model import BaseModel
from polyad.adapters_store.delta import Delta, LowRank, ModuleDelta, write_delta
from polyad.serve.config import Settings
from polyad.serve.engine.arguments import engine_arguments, serve_arguments
from polyad.serve.engine.host import FAILED, LOADING, READY, HostLoRAManager

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


class Worker:
    """What the model runner of one worker holds."""

    def __init__(self, manager: HostLoRAManager, base: BaseModel, folder: Path) -> None:
        self.manager = manager
        self.deltas: dict[int, Delta] = {}
        self._base = base
        self._folder = folder

    def write(self, version: int, ranks: Mapping[str, int], scale: float = 2.0) -> Path:
        """A delta file with these ranks by module, `layer:` before a module's name where only one layer has it."""
        generator = torch.Generator().manual_seed(version)
        changes = {}
        for module, (outputs, inputs) in self._base.linears.items():
            layer, _, name = module.removeprefix("model.layers.").partition(".")
            if rank := ranks.get(name) or ranks.get(f"{layer}:{name}"):
                a, b = torch.randn(rank, inputs, generator=generator), torch.randn(outputs, rank, generator=generator)
                changes[module] = ModuleDelta(low_rank=LowRank(a, b, scale))
        self.deltas[version] = Delta(changes)
        path = self._folder / f"{version}"
        write_delta(self.deltas[version], path)
        return path

    def load(self, version: int, path: Path) -> str:
        self.manager.load(version, str(path))
        deadline = time.monotonic() + 10
        while (state := self.manager.state(version)) == LOADING:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        return state

    def have(self, version: int, ranks: Mapping[str, int] | None = None) -> None:
        assert self.load(version, self.write(version, ranks or dict.fromkeys(EVERY, 4))) == READY

    def step(self, *batch: int) -> None:
        """What the model runner does before a forward pass: one entry for each token."""
        requests = {LoRARequest(lora_name=f"v{i}", lora_int_id=i, lora_path=f"sha256:{i}") for i in batch if i}
        self.manager.set_active_adapters(requests, LoRAMapping(batch, batch, is_prefill=True))

    def check(self, *batch: int) -> None:
        """Every layer adds to each token's output what the token's version says, and not a bit to others'."""
        for layer in range(LAYERS):
            for fused, columns in FUSED.items():
                wrapped = self.manager._adapter_manager.modules[f"model.layers.{layer}.{fused}"]
                x = torch.randn(len(batch), wrapped.input_size)
                plain, changed = wrapped.base_layer(x)[0], wrapped(x)[0]
                expected = plain.double().clone()
                for token, version in enumerate(batch):
                    changes = self.deltas[version].modules if version else {}
                    for module, (begin, end) in columns.items():
                        if change := changes.get(f"model.layers.{layer}.{module}"):
                            term = change.low_rank
                            grown = term.b.double() @ (term.a.double() @ x[token].double())
                            expected[token, begin:end] += term.scale * grown
                        else:
                            assert torch.equal(plain[token, begin:end], changed[token, begin:end]), (layer, module)
                torch.testing.assert_close(changed.double(), expected, atol=1e-3, rtol=1e-4)

    @property
    def in_slots(self) -> list[int | None]:
        return self.manager._adapter_manager.lora_index_to_id


@pytest.fixture
def worker(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quiet_vllm: None) -> Iterator[Worker]:
    monkeypatch.setattr(
        type(current_platform), "get_punica_wrapper", classmethod(lambda cls: "polyad.serve.engine.punica.SlotWrapper")
    )
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
        process_weights_after_loading(model, config.model_config, torch.device("cpu"))
        manager = HostLoRAManager(config, torch.device("cpu"), model.embedding_modules)
        manager.create_lora_manager(model, config)
    yield Worker(manager, base, tmp_path)
    manager._reader.shutdown()
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
def test_ranks_and_targets_may_differ_from_module_to_module(worker: Worker, ranks: dict[str, int]) -> None:
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
            worker.manager.add_dummy_lora(request, rank=8)
    worker.step(1, 2)
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
    assert sorted(filter(None, worker.in_slots)) == [1, 3]
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
    worker.manager.load(1, str(worker.write(1, {"mlp.up_proj": 2})))
    worker.step(1)
    worker.check(1)
    assert worker.manager.state(1) == READY


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
    assert worker.in_slots == [1, None]
    worker.check(1)
    path.write_bytes(whole)
    assert worker.load(2, path) == READY
    worker.step(1, 2)
    worker.check(1, 2)


def test_other_terms_than_low_rank_ones_are_refused(worker: Worker) -> None:
    path = worker.write(1, {"mlp.up_proj": 2})
    changes = {**worker.deltas[1].modules, "model.layers.0.mlp.down_proj": ModuleDelta(row_scale=torch.ones(32))}
    write_delta(Delta(changes), path)
    assert worker.load(1, path).startswith(
        f"{FAILED}ValueError: model.layers.0.mlp.down_proj: this engine serves low-rank"
    )


def test_dropped_version_frees_its_slot_and_its_memory(worker: Worker) -> None:
    for version in (1, 2):
        worker.have(version)
    worker.step(1, 2)
    worker.manager.drop([1, 77])
    assert worker.in_slots == [None, 2]
    assert worker.manager.list_adapters() == {2}
    assert worker.manager.state(1).startswith(FAILED)
    worker.have(3, {"self_attn.q_proj": 1})
    worker.step(2, 3)
    worker.check(2, 3)


def test_dropped_while_it_is_read_never_arrives(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    read: Callable[..., object] = worker.manager._read
    monkeypatch.setattr(worker.manager, "_read", lambda *args: (time.sleep(0.05), read(*args))[1])
    for version in (1, 2):
        worker.manager.load(version, str(worker.write(version, {"mlp.up_proj": 2})))
    assert worker.manager.state(1) == LOADING
    worker.manager.drop([1, 2])
    time.sleep(0.2)
    assert worker.manager.list_adapters() == set()
    assert worker.manager.state(1).startswith(FAILED)


def test_asking_twice_reads_once(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = []
    read: Callable[..., object] = worker.manager._read
    monkeypatch.setattr(worker.manager, "_read", lambda *args: (reads.append(args), read(*args))[1])
    path = worker.write(1, {"mlp.up_proj": 2})
    for _ in range(3):
        worker.manager.load(1, str(path))
    assert worker.load(1, path) == READY
    worker.manager.load(1, str(path))
    assert len(reads) == 1
