"""The pinned vLLM still has what polyad takes the place of, where polyad expects it."""

import inspect
import re
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

import pytest
import torch
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.engine import core
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.worker import cpu_worker, lora_model_runner_mixin

from polyad.serve.engine.delta_manager import DeltaManager
from polyad.serve.engine.fusing_runner import FusingCPUModelRunner
from polyad.serve.engine.interruption import AnnouncedRequest
from polyad.serve.engine.plugin import ACTIVE, register
from polyad.serve.engine.version import engine_version

PINNED = "0.32.0"

# module, the name in it that polyad replaces, and the function that looks the name up there
REPLACED = [
    ("vllm.v1.worker.lora_model_runner_mixin", "LRUCacheWorkerLoRAManager", "LoRAModelRunnerMixin.load_lora_model"),
    ("vllm.v1.worker.cpu_worker", "CPUModelRunner", "CPUWorker.init_device"),
    ("vllm.v1.engine.core", "Request", "EngineCore.preprocess_add_request"),
    ("vllm.distributed.device_communicators.shm_broadcast", "SpinCondition", "MessageQueue.__init__"),
    ("vllm.entrypoints.launchers.api_server.app_state", "OpenAIServingModels", "init_app_state"),
    ("vllm.entrypoints.launchers.app", "sagemaker_standards_bootstrap", "build_app"),
]
# class, and what polyad overrides, calls or reads in it
USED = [
    ("vllm.v1.engine.async_llm.AsyncLLM", "generate from_vllm_config get_supported_tasks collective_rpc errored"),
    ("vllm.v1.engine.async_llm.AsyncLLM", "get_num_unfinished_requests do_log_stats shutdown"),
    ("vllm.v1.core.sched.async_scheduler.AsyncScheduler", "schedule _handle_blocked_waiting_request"),
    ("vllm.entrypoints.openai.models.serving.OpenAIServingModels", "model_name show_available_models"),
    ("vllm.lora.request.LoRARequest", "lora_name lora_int_id lora_path base_model_name"),
    ("vllm.model_executor.layers.linear.LinearBase", "forward"),
    ("vllm.model_executor.layers.quantization.base_config.QuantizeMethodBase", "apply create_weights"),
    ("vllm.v1.worker.cpu_model_runner.CPUModelRunner", "_sample _bookkeeping_sync sample_tokens"),
    ("vllm.v1.worker.gpu.model_runner.GPUModelRunner", "execute_model sample sample_tokens"),
    ("vllm.v1.worker.gpu_model_runner.ExecuteModelState", "scheduler_output logits"),
    ("vllm.v1.core.sched.async_scheduler.AsyncScheduler", "add_request finish_requests update_from_output"),
    ("vllm.v1.core.sched.async_scheduler.AsyncScheduler", "_preempt_request _reserve_prefill_lookahead"),
    ("vllm.v1.core.sched.async_scheduler.AsyncScheduler", "_get_local_prefix_cache_hit"),
    ("vllm.v1.core.kv_cache_manager.KVCacheManager", "truncate_computed_blocks"),
    ("vllm.distributed.device_communicators.shm_broadcast.SpinCondition", "wait notify record_read"),
    ("vllm.v1.core.kv_cache_coordinator.KVCacheCoordinator", "get_num_blocks_to_allocate"),
    ("vllm.v1.request.Request", "from_engine_core_request"),
    ("vllm.v1.worker.cpu_model_runner.CPUModelRunner", "load_model execute_model"),
    ("vllm.v1.attention.backends.cpu_attn.CPUAttentionBackendImpl", "forward"),
    ("vllm.utils.argparse_utils.FlexibleArgumentParser", "_pull_args_from_config error"),
]


def found(path: str) -> Any:
    """The module, class or function at a dotted path."""
    module, _, name = path.rpartition(".")
    try:
        return getattr(found(module) if module else import_module(name), name) if module else import_module(name)
    except AttributeError:
        return import_module(path)


def moved(what: str) -> str:
    return f"vLLM {engine_version()} has no {what} where {PINNED} had it: serve/engine must follow"


def test_vllm_is_the_one_that_polyad_was_written_for() -> None:
    assert engine_version().split()[1].split("+")[0] == PINNED


@pytest.mark.parametrize(("module", "name", "reader"), REPLACED, ids=[name for _, name, _ in REPLACED])
def test_replaced_name_is_there_and_looked_up_there(module: str, name: str, reader: str) -> None:
    home = import_module(module)
    assert hasattr(home, name), moved(f"{module}.{name}")
    function: Any = home
    for part in reader.split("."):
        function = getattr(function, part, None)
    assert function is not None, moved(f"{module}.{reader}")
    code = inspect.unwrap(function).__code__
    assert name in code.co_names, moved(f"use of {name} in {module}.{reader}")
    assert inspect.unwrap(function).__module__ == module, moved(f"{reader} defined in {module}")


@pytest.mark.parametrize(("path", "names"), USED, ids=[f"{path.rpartition('.')[2]} {names}" for path, names in USED])
def test_used_names_are_there(path: str, names: str) -> None:
    owner = found(path)
    for name in names.split():
        assert hasattr(owner, name), moved(f"{path}.{name}")


def test_names_that_only_instances_have() -> None:
    sources = {
        Scheduler: ["self.waiting", "self.kv_holding_waiting", "self.running", "self.lora_config"],
        import_module("vllm.v1.worker.gpu_model_runner").GPUModelRunner: ["self.discard_request_mask"],
        import_module("vllm.entrypoints.openai.models.serving").OpenAIServingModels: [
            "self.lora_requests",
            "self.base_model_paths",
            "self.registry",
        ],
    }
    for owner, names in sources.items():
        source = inspect.getsource(owner.__init__)
        for name in names:
            assert name in source, moved(f"{name} in {owner.__name__}")
    parameters = inspect.signature(AsyncLLM.generate).parameters
    assert parameters["lora_request"].kind is inspect.Parameter.KEYWORD_ONLY, moved("lora_request of generate")


@pytest.fixture
def stock(monkeypatch: pytest.MonkeyPatch) -> None:
    """What vLLM has by itself, and has again afterwards."""
    for owner, name in (
        (lora_model_runner_mixin, "LRUCacheWorkerLoRAManager"),
        (cpu_worker, "CPUModelRunner"),
        (core, "Request"),
    ):
        monkeypatch.setattr(owner, name, vars(owner)[name])


def places() -> list[object]:
    return [
        lora_model_runner_mixin.LRUCacheWorkerLoRAManager,
        cpu_worker.CPUModelRunner,
        core.Request,
    ]


@pytest.mark.parametrize("value", [None, "", "0", "true"])
def test_other_programs_keep_their_vllm(stock: None, monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    monkeypatch.delenv(ACTIVE, raising=False)
    if value is not None:
        monkeypatch.setenv(ACTIVE, value)
    before = places()
    register()
    assert places() == before
    assert DeltaManager not in before


def test_registering_twice_is_as_once(stock: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ACTIVE, "1")
    ours = [DeltaManager, FusingCPUModelRunner, AnnouncedRequest]
    for _ in range(3):
        register()
        assert places() == ours


def test_vllm_finds_the_plugin() -> None:
    plugins = {point.name: point for point in entry_points(group="vllm.general_plugins")}
    assert plugins["polyad"].load() is register


def test_generators_on_cpu_still_cannot_be_wound_back() -> None:
    """The reason for SeededCPUModelRunner: where this passes no more, it can go."""
    with pytest.raises(RuntimeError, match="offset"):
        torch.Generator().set_offset(0)


# What vLLM's model runners ask of the manager that polyad puts in the place of theirs.
_ASKED = re.compile(r"self\.lora_manager\.(\w+)")


@pytest.mark.parametrize(
    "module",
    ["vllm.v1.worker.lora_model_runner_mixin", "vllm.v1.worker.gpu_model_runner", "vllm.v1.worker.gpu.model_runner"],
)
def test_manager_has_what_the_model_runners_ask_for(module: str) -> None:
    asked = set(_ASKED.findall(inspect.getsource(import_module(module))))
    # Routes that would add, remove or pin an adapter behind polyad's back are polyad's own.
    refused = {"add_adapter", "remove_adapter", "pin_adapter"}
    assert {name for name in asked - refused if not hasattr(DeltaManager, name)} == set()


def test_every_linear_layer_computes_by_its_quant_method() -> None:
    linear = import_module("vllm.model_executor.layers.linear")
    for kind in (linear.ReplicatedLinear, linear.ColumnParallelLinear, linear.RowParallelLinear):
        assert "self.quant_method.apply(self, " in inspect.getsource(kind.forward), moved(f"quant_method in {kind}")
    bias = "None if (self.tp_rank > 0 or self.skip_bias_add) else self.bias"
    assert bias in inspect.getsource(linear.RowParallelLinear.forward), moved("the first rank's bias")


def test_scheduler_asks_for_each_waiting_request_and_counts_adapters_only_by_its_lora_config() -> None:
    source = inspect.getsource(Scheduler.schedule)
    assert "self._handle_blocked_waiting_request(request)" in source, moved("the gate for waiting requests")
    uses = [line.strip() for line in source.splitlines() if "lora" in line and "self.lora_config" not in line]
    guarded = ("scheduled_loras", "req.lora_request", "request.lora_request", "# ")
    assert all(any(word in line for word in guarded) for line in uses), moved("the count of adapters")


def test_scheduler_asks_in_both_of_its_loops_how_much_a_request_may_compute() -> None:
    source = inspect.getsource(Scheduler.schedule)
    assert source.count("self._reserve_prefill_lookahead(") == 2, moved("where members of fusions are held")
    assert "_get_local_prefix_cache_hit(request)" in source, moved("the look into the prefix cache")


def test_attention_is_called_by_the_name_that_a_step_is_broken_off_at() -> None:
    source = inspect.getsource(import_module("vllm.model_executor.layers.attention.attention"))
    assert "self.impl.forward(" in source, moved("the call of attention")
    step = inspect.getsource(core.EngineCore.step)
    order = [step.index(part) for part in ("if model_output is None:", "sample_tokens(", "update_from_output(")]
    assert order == sorted(order), moved("the end of a step that says nothing")


def test_sampling_and_its_mask_come_after_the_logits_that_fusion_changes() -> None:
    v1 = inspect.getsource(import_module("vllm.v1.worker.gpu_model_runner").GPUModelRunner.sample_tokens)
    order = [v1.index(part) for part in ("= self.execute_model_state", "apply_grammar_bitmask(", "self._sample(")]
    assert order == sorted(order), moved("the order of a V1 step")
    v2 = inspect.getsource(import_module("vllm.v1.worker.gpu.model_runner").GPUModelRunner.sample)
    order = [v2.index(part) for part in ("self.model.compute_logits(", "apply_grammar_bitmask(", "self.sampler(")]
    assert order == sorted(order), moved("the order of a V2 step")
