"""The user's vLLM options beside polyad's settings, through vLLM's own parser."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.utils.argparse_utils import FlexibleArgumentParser

from polyad.adapters_store.base_model import BaseModel
from polyad.adapters_store.errors import ConfigError
from polyad.serve.config import Settings
from polyad.serve.engine.arguments import OURS, engine_arguments, serve_arguments

Parse = Callable[..., Any]


@pytest.fixture
def parse(tiny_model: Path, tmp_path: Path, quiet_vllm: None) -> Parse:
    base = BaseModel.from_folder(tiny_model, "the-base")

    def parsed(*options: str, **settings: object) -> Any:
        return serve_arguments(str(tiny_model), options, Settings.load(state_dir=tmp_path, **settings), base)

    return parsed


def spellings(name: str) -> list[str]:
    """Ways to give an option that vLLM's parser takes for the same."""
    return [name, name.replace("-", "_").replace("__", "--", 1), f"{name}=1", f"{name}.key=1"]


@pytest.mark.parametrize("option", [way for name in OURS for way in spellings(name)])
def test_option_that_is_polyads_to_set_is_refused_with_what_to_use(parse: Parse, option: str) -> None:
    name = option.split("=")[0].split(".")[0].replace("_", "-")
    with pytest.raises(ConfigError) as refused:
        parse("--max-model-len", "128", option, "1")
    assert str(refused.value) == f"{name} cannot be passed on to vLLM; use {OURS[name]}"


@pytest.mark.parametrize("name", OURS)
def test_option_that_is_refused_is_one_of_vllms(name: str) -> None:
    """If not, it has been renamed, and the new name goes past polyad."""
    parser = make_arg_parser(FlexibleArgumentParser(add_help=False))
    assert name in {option for action in parser._actions for option in action.option_strings}


def test_switching_adapters_off_is_refused(parse: Parse) -> None:
    with pytest.raises(ConfigError, match="adapters are always on"):
        parse("--no-enable-lora")


@pytest.mark.parametrize("option", ["--api-ke", "--max-lora", "--host-", "--lora-mod", "--scheduler-c"])
def test_abbreviation_does_not_slip_past(parse: Parse, option: str) -> None:
    with pytest.raises(ConfigError, match="unrecognized arguments"):
        parse(option, "1")


def test_broken_file_of_options_is_told_in_one_line(parse: Parse, tmp_path: Path) -> None:
    (tmp_path / "vllm.yaml").write_text("a: [1\nb: }")
    with pytest.raises(ConfigError, match="^vLLM's options: "):
        parse("--config", str(tmp_path / "vllm.yaml"))


@pytest.mark.parametrize("given", [("--config", "{}"), ("--config={}",)], ids=["apart", "joined"])
def test_file_of_options_is_read_by_the_same_rules(parse: Parse, tmp_path: Path, given: tuple[str, ...]) -> None:
    file = tmp_path / "vllm.yaml"
    options = [part.format(file) for part in given]
    file.write_text("max-model-len: 256\nmax-num-seqs: 7\n")
    arguments = parse(*options, "--max-num-seqs", "9")
    assert (arguments.max_model_len, arguments.max_num_seqs) == (256, 9)
    file.write_text("max-model-len: 256\nmax_loras: 3\n")
    with pytest.raises(ConfigError, match="--max-loras cannot be passed on to vLLM; use --slots"):
        parse(*options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--no-such-option", "1"], "unrecognized arguments: --no-such-option"),
        (["--max-model-len", "long"], "argument --max-model-len: invalid .* value: 'long'"),
        (["--dtype", "int3"], "argument --dtype: invalid choice: 'int3'"),
        (["--enable-auto-tool-choice"], "requires --tool-call-parser"),
        (["second-model"], "'second-model', which belongs to no option"),
        (["--config", "/no/such/file.yaml"], "/no/such/file.yaml"),
        (["--config"], "No config file"),
        (["--max-model-len"], "argument --max-model-len: expected one argument"),
    ],
)
def test_what_vllm_refuses_is_told_in_one_line(
    parse: Parse, options: list[str], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConfigError, match=f"^vLLM's options: .*{message}"):
        parse(*options)
    assert "usage" not in "".join(capfd.readouterr())


def test_refusal_does_not_repeat_secrets(parse: Parse) -> None:
    with pytest.raises(ConfigError) as refused:
        parse("--hf-token", "the-secret", "--max-model-len", "long")
    assert "the-secret" not in str(refused.value)


def test_users_options_win_over_defaults(parse: Parse) -> None:
    plain = parse()
    assert plain.served_model_name == ["the-base"]
    assert plain.gpu_memory_utilization == 0.4
    given = parse("--served_model_name", "one", "two", "--gpu-memory-utilization=0.2", "--max-model-len", "128")
    assert given.served_model_name == ["one", "two"]
    assert given.gpu_memory_utilization == 0.2
    assert given.max_model_len == 128


@pytest.mark.parametrize(
    ("options", "backend"),
    [
        ([], "guidance"),
        (["--structured-outputs-config.enable_in_reasoning", "true"], "guidance"),
        (["--structured-outputs-config", '{"enable_in_reasoning": true}'], "guidance"),
        (["--structured-outputs-config.backend", "xgrammar"], "xgrammar"),
        (["--structured_outputs_config", '{"backend": "xgrammar"}'], "xgrammar"),
    ],
)
def test_grammars_are_guidances_unless_another_backend_is_named(parse: Parse, options: list[str], backend: str) -> None:
    assert parse(*options).structured_outputs_config.backend == backend


def test_environment_of_the_user_wins_over_defaults(parse: Parse, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "5")
    parse()
    assert os.environ["VLLM_CPU_KVCACHE_SPACE"] == "5"
    assert os.environ["VLLM_KEEP_ALIVE_ON_ENGINE_DEATH"] == "1"
    assert os.environ["POLYAD_ENGINE"] == "1"


def test_settings_become_the_engines(parse: Parse, tiny_model: Path) -> None:
    arguments = parse("--skip-tokenizer-init", slots=3, max_rank=32, slot_wait_s=0.7, port=8123)
    assert (arguments.host, arguments.port) == ("127.0.0.1", 8123)
    config = engine_arguments(arguments).create_engine_config()
    assert config.model_config.model == str(tiny_model)
    assert config.lora_config.max_loras == 3
    assert config.scheduler_config.scheduler_cls == "polyad.serve.engine.scheduler.SlotScheduler"
    assert config.parallel_config.worker_extension_cls == "polyad.serve.engine.worker.AdapterWorker"
    assert config.additional_config == {"polyad": {"slot_wait_s": 0.7, "kernels": "auto", "max_rank": 32}}


def test_kernels_that_do_not_work_here_are_refused(parse: Parse) -> None:
    with pytest.raises(ConfigError, match=r"kernels: 'cpu' computes in .*, not in torch\.float16"):
        parse("--dtype", "float16", kernels="cpu")


@pytest.mark.parametrize(("wide", "dtype"), [(True, "auto"), (False, "float32")])
def test_cpu_without_avx512_serves_in_float32(
    parse: Parse, monkeypatch: pytest.MonkeyPatch, wide: bool, dtype: str
) -> None:
    monkeypatch.setattr("torch.cpu._is_avx512_supported", lambda: wide)
    assert parse().dtype == dtype
    assert parse("--dtype", "bfloat16").dtype == "bfloat16"
