"""From polyad's settings and the user's own vLLM options to the arguments that vLLM runs with."""

import logging
import os
from argparse import Namespace
from collections.abc import Mapping, Sequence
from typing import NoReturn

import torch
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
from vllm.platforms import CpuArchEnum, current_platform
from vllm.utils.argparse_utils import FlexibleArgumentParser

from polyad.adapters_store.base_model import BaseModel
from polyad.adapters_store.errors import ConfigError
from polyad.kernels.backend import BackendUnavailable, select
from polyad.serve.config import Settings
from polyad.serve.engine.plugin import ACTIVE
from polyad.serve.engine.structured import BACKEND

logger = logging.getLogger(__name__)

# vLLM options that polyad sets itself, and the setting to use instead.
OURS: Mapping[str, str] = {
    "--host": "--host before the vLLM options",
    "--port": "--port before the vLLM options",
    "--api-key": "--api-key before the vLLM options",
    "--root-path": "a proxy that strips the prefix",
    "--enable-lora": "nothing: adapters are always on",
    "--max-loras": "--slots",
    "--max-lora-rank": "--max-rank",
    "--max-cpu-loras": "--host-cache-bytes",
    "--lora-modules": "`polyad adapter push`",
    "--lora-target-modules": "nothing: every linear module can be adapted",
    "--scheduler-cls": "nothing: polyad schedules slots",
    "--scheduling-policy": "nothing: polyad shares fairly, with priorities inside a tenant",
    "--worker-extension-cls": "nothing: polyad extends the worker",
    "--additional-config": "nothing: polyad passes its own",
    "--api-server-count": "more replicas",
    "--headless": "nothing: polyad is the HTTP server",
    "--grpc": "nothing: polyad is the HTTP server",
    "--uds": "--host and --port before the vLLM options",
    "--ssl-keyfile": "a proxy that speaks TLS",
    "--ssl-certfile": "a proxy that speaks TLS",
    "--ssl-ca-certs": "a proxy that speaks TLS",
    "--model": "the positional MODEL",
}

# RAM, despite the option's name: vLLM's default of 0.92 fails at start where other processes live.
_CPU_MEMORY_SHARE = "0.4"
_CPU_KV_CACHE_GIB = "2"
# Matrix products in bf16 run there at a sixth of float32's speed (measured: Zen 1, oneDNN of torch 2.13).
_CPU_DTYPE_WITHOUT_AVX512 = "float32"


class _Parser(FlexibleArgumentParser):
    """vLLM's parser for whole names only, or an abbreviation would slip past OURS; what it refuses, it raises."""

    def __init__(self) -> None:
        super().__init__(prog="polyad serve", add_help=False, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"vLLM's options: {message}")


def serve_arguments(model: str, options: Sequence[str], settings: Settings, base: BaseModel) -> Namespace:
    """vLLM's parsed arguments. Raises ConfigError for an option that is polyad's to set, or that vLLM refuses."""
    _set_environment()
    parser = make_arg_parser(_Parser())
    try:
        options = _with_config_file(parser, options)
        given = {_name(option) for option in options}
        _refuse_ours(given)
        arguments = ["--model", model, *options, *_defaults(base, given)]
        parsed = parser.parse_args([*arguments, "--host", settings.host, "--port", str(settings.port)])
        if parsed.model_tag is not None:
            raise ConfigError(f"vLLM's options: got {parsed.model_tag!r}, which belongs to no option")
        ours = {name: getattr(settings, name) for name in ("slot_wait_s", "kernels", "max_rank")}
        parsed.additional_config = {"polyad": ours}
        if parsed.structured_outputs_config.backend == "auto":
            parsed.structured_outputs_config.backend = BACKEND
        validate_parsed_serve_args(parsed)
    except ConfigError:
        raise
    except (SystemExit, Exception) as error:
        # vLLM's checks, and its reader of YAML, have no class of errors in common.
        raise ConfigError(f"vLLM's options: {error}") from error
    _enable_adapters(parsed, settings)
    _check_kernels(parsed, settings)
    return parsed


def engine_arguments(arguments: Namespace) -> AsyncEngineArgs:
    """The part of the arguments that the engine is built from."""
    return AsyncEngineArgs.from_cli_args(arguments)


def _with_config_file(parser: _Parser, options: Sequence[str]) -> list[str]:
    """The options, those of a file named by --config among them."""
    parts = [part for option in options for part in (option.split("=", 1) if _name(option) == "--config" else [option])]
    return list(parser._pull_args_from_config(parts)) if "--config" in parts else parts


def _name(option: str) -> str:
    name = option.split("=")[0].split(".")[0].replace("_", "-")
    return f"--{name.removeprefix('--no-')}" if name.startswith("--no-") else name


def _refuse_ours(given: set[str]) -> None:
    for name in sorted(given & OURS.keys()):
        raise ConfigError(f"{name} cannot be passed on to vLLM; use {OURS[name]}")


def _set_environment() -> None:
    os.environ[ACTIVE] = "1"
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    # The supervisor restarts a dead engine; vLLM would end the whole server.
    os.environ["VLLM_KEEP_ALIVE_ON_ENGINE_DEATH"] = "1"
    # Tool calls are then held to their JSON schema; the form that vLLM prefers is a grammar that only xgrammar knows.
    os.environ.setdefault("VLLM_ENFORCE_STRICT_TOOL_CALLING", "0")
    # As many as OpenAI allows; vLLM's own bound of 16384 lets one small request hold up all others for minutes.
    os.environ.setdefault("VLLM_MAX_N_SEQUENCES", "128")
    # Each of them in so many answers: a request is one to its tenant's limits, however much it asks for.
    os.environ.setdefault("VLLM_MAX_COMPLETION_PROMPTS", "128")
    if current_platform.is_cpu():
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", _CPU_KV_CACHE_GIB)


def _defaults(base: BaseModel, given: set[str]) -> list[str]:
    defaults = {"--served-model-name": base.name}
    if current_platform.is_cpu():
        defaults["--gpu-memory-utilization"] = _CPU_MEMORY_SHARE
        if current_platform.get_cpu_architecture() == CpuArchEnum.X86 and not torch.cpu._is_avx512_supported():
            defaults["--dtype"] = _CPU_DTYPE_WITHOUT_AVX512
            if "--dtype" not in given:
                logger.warning("this CPU has no AVX-512, without which bf16 is slow: serving in float32 (see --dtype)")
    return [part for option, value in defaults.items() if _name(option) not in given for part in (option, value)]


def _check_kernels(parsed: Namespace, settings: Settings) -> None:
    dtype = getattr(torch, parsed.dtype, torch.float32)
    try:
        select(settings.kernels, torch.device(current_platform.device_type), dtype)
    except BackendUnavailable as error:
        raise ConfigError(str(error)) from error


def _enable_adapters(parsed: Namespace, settings: Settings) -> None:
    # vLLM then carries each request's composition to its scheduler and workers; what it does with them is polyad's.
    parsed.enable_lora = True
    parsed.max_loras = settings.slots
    parsed.max_cpu_loras = settings.slots
    parsed.scheduler_cls = "polyad.serve.engine.scheduler.SlotScheduler"
    parsed.worker_extension_cls = "polyad.serve.engine.worker.AdapterWorker"
