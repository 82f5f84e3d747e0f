"""The `vllm.general_plugins` entry point. vLLM calls it in every process, possibly more than once.

Each change below replaces one class that vLLM 0.32.0 looks up by name in a module; tests/serve/engine/test_plugin.py
fails clearly when a newer vLLM moves one of them.
"""

import os

ACTIVE = "POLYAD_ENGINE"


def register() -> None:
    """Put polyad's classes into vLLM's places, but only in processes that `polyad serve` started."""
    if os.environ.get(ACTIVE) != "1":
        return
    from vllm.platforms import current_platform
    from vllm.v1.worker import lora_model_runner_mixin

    from polyad.serve.engine.delta_manager import DeltaManager
    from polyad.serve.engine.orphan import end_with_parent

    end_with_parent()
    lora_model_runner_mixin.LRUCacheWorkerLoRAManager = DeltaManager
    if current_platform.is_cpu():
        _register_cpu()
    else:
        _register_gpu()


def _register_cpu() -> None:
    from vllm.distributed.device_communicators import shm_broadcast
    from vllm.v1.engine import core
    from vllm.v1.worker import cpu_worker

    from polyad.serve.engine.fusing_runner import FusingCPUModelRunner
    from polyad.serve.engine.interruption import AnnouncedRequest
    from polyad.serve.engine.waiting import Waiting

    core.Request = AnnouncedRequest
    cpu_worker.CPUModelRunner = FusingCPUModelRunner
    shm_broadcast.SpinCondition = Waiting


def _register_gpu() -> None:
    from vllm.v1.worker import gpu_model_runner
    from vllm.v1.worker.gpu import model_runner

    from polyad.serve.engine.fusing_runner import FusingRunner
    from polyad.serve.engine.fusing_runner_v2 import FusingRunnerV2

    for module, mixin in ((gpu_model_runner, FusingRunner), (model_runner, FusingRunnerV2)):
        stock = module.GPUModelRunner
        if not issubclass(stock, mixin):
            module.GPUModelRunner = type(stock.__name__, (mixin, stock), {})
