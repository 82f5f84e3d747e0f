"""The Triton kernels of fusion, against the reference in float64; test_triton.py runs this file."""

import pytest
import torch

from polyad.kernels.fusion.fuser import Group, select_fuser
from polyad.kernels.fusion.method import (
    MeanProbabilities,
    Search,
    contrastive,
    mean_log_probabilities,
    proxy,
    static,
)
from tests.kernels.fusion_cases import INFINITE, close, streams

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
VOCABULARY = 331
METHODS = {
    "static": static((1.5, -0.7)),
    "proxy": proxy(2.0),
    "mean_log": mean_log_probabilities((0.4, 0.3, 0.3)),
    "mean": MeanProbabilities((0.4, 0.3, 0.3), temperature=1.5),
    "dlf": Search(),
    "narrow": Search(low=0.5, step=0.25, count=5, temperature=0.8),
    "joint": Search(rho=0.1),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("masked", [False, True])
def test_all_methods_in_one_batch_are_the_reference(dtype: torch.dtype, masked: bool) -> None:
    parts, groups, row = [], [], 0
    for seed, method in enumerate(METHODS.values()):
        for count in (3, 4) if isinstance(method, Search) else (3,):
            parts.append(streams(count, VOCABULARY, seed, dtype))
            groups.append(Group(tuple(range(row, row + count)), method))
            row += count
    parts.append(streams(2, VOCABULARY, 20, dtype))
    groups.append(Group((row, row + 1), contrastive()))
    rows_RV = torch.cat(parts)
    if masked:
        rows_RV[::3, :40] = -INFINITE
        rows_RV[1::3, 20:60] = -INFINITE
    found = select_fuser("triton")(rows_RV.to(DEVICE), groups)
    wanted = select_fuser("reference")(rows_RV.double(), groups)
    for index in range(len(groups)):
        close(found.logits_GV[index].cpu(), wanted.logits_GV[index], 2e-4)
        assert found.records_GF[index].tolist() == pytest.approx(
            wanted.records_GF[index].tolist(), abs=2e-4, nan_ok=True
        )
