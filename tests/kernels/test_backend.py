import logging
import sys
from typing import get_args

import pytest
import torch

import polyad.kernels
from polyad.kernels.backend import NAMES, BackendUnavailable, select
from polyad.serve.config import Settings

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def test_setting_offers_what_there_is() -> None:
    assert set(get_args(Settings.model_fields["kernels"].annotation)) == set(NAMES)


def test_auto_on_cpu_is_native_code() -> None:
    assert select("auto", CPU, torch.bfloat16).name == "cpu"
    assert select("auto", CPU, torch.float32).name == "cpu"


def test_auto_falls_back_to_the_reference_and_says_why(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert select("auto", CPU, torch.float16).name == "reference"
    assert "'cpu' computes in torch.float32 and torch.bfloat16, not in torch.float16" in caplog.text


def test_without_native_code_auto_is_the_reference_and_the_log_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for module in ("_delta", "cpu"):
        monkeypatch.delattr(polyad.kernels, module, raising=False)
        monkeypatch.delitem(sys.modules, f"polyad.kernels.{module}", raising=False)
    monkeypatch.setitem(sys.modules, "polyad.kernels._delta", None)
    with caplog.at_level(logging.WARNING):
        assert select("auto", CPU, torch.float32).name == "reference"
    assert "'cpu' was not built when polyad was installed, which needs a C++ compiler" in caplog.text
    with pytest.raises(BackendUnavailable, match="kernels: 'cpu' was not built when polyad was installed"):
        select("cpu", CPU, torch.float32)


@pytest.mark.parametrize(
    ("name", "device", "dtype", "reason"),
    [
        ("cpu", GPU, torch.float32, "kernels: 'cpu' runs on a CPU, not on cuda"),
        (
            "cpu",
            CPU,
            torch.float64,
            "kernels: 'cpu' computes in torch.float32 and torch.bfloat16, not in torch.float64",
        ),
        ("triton", CPU, torch.float32, "kernels: 'triton' runs on a GPU, not on cpu"),
        ("fast", CPU, torch.float32, "kernels: got 'fast', allowed: auto, triton, cpu, reference"),
    ],
)
def test_explicit_choice_that_does_not_work_is_an_error(
    name: str, device: torch.device, dtype: torch.dtype, reason: str
) -> None:
    with pytest.raises(BackendUnavailable) as refused:
        select(name, device, dtype)
    assert str(refused.value).startswith(reason)
