"""Pretraining on several processes: what two of them leave is what one leaves, BatchNorm aside.

The heads normalise by their own process's rows on a CPU (torch's SyncBatchNorm refuses CPU tensors), so here they
normalise each image by itself, in one process and in two alike.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.training.pretraining import NARROW, pretraining
from tests.training.runs import rows
from tests.training.test_pretrain import tensors
from training import loop, pretrain
from training.checkpoint import Run
from training.pretrain_config import PretrainConfig

# sums in another order: relative difference of losses, absolute of weights
RTOL, ATOL = 1e-4, 1e-4


class PerImage1d(nn.LayerNorm):
    """In BatchNorm1d's place."""

    def __init__(self, width: int, affine: bool = True, **_: Any) -> None:
        super().__init__(width, elementwise_affine=affine)


class PerImage2d(nn.GroupNorm):
    """In BatchNorm2d's place."""

    def __init__(self, width: int) -> None:
        super().__init__(1, width)


def pretrain_without_batch_statistics(config: PretrainConfig) -> Run[PretrainConfig]:
    """`viewfold pretrain` in a process whose networks have no BatchNorm; spawned processes import it by this name."""
    torch.set_num_threads(1)
    kept = nn.BatchNorm1d, nn.BatchNorm2d
    nn.BatchNorm1d, nn.BatchNorm2d = PerImage1d, PerImage2d  # type: ignore[misc, assignment]
    try:
        command = pretrain.COMMAND
        again = loop.Command(pretrain_without_batch_statistics, *list(vars(command).values())[1:])
        return loop.run(again, config)
    finally:
        nn.BatchNorm1d, nn.BatchNorm2d = kept  # type: ignore[misc]


@pytest.mark.slow
@pytest.mark.parametrize("method", sorted(NARROW))
def test_two_processes_leave_what_one_leaves(method: str, tmp_path: Path):
    one = pretrain_without_batch_statistics(pretraining(tmp_path, method, out=tmp_path / "one"))
    config = pretraining(tmp_path, method, devices=2, out=tmp_path / "two")
    two = pretrain_without_batch_statistics(config)
    assert two.result()["hardware"].startswith("2 x")
    for first, second in zip(rows(one.folder), rows(two.folder), strict=True):
        assert first.keys() == second.keys()
        for key, value in first.items():
            assert float(second[key]) == pytest.approx(float(value), rel=RTOL, abs=1e-6), key
    for name, value in tensors(one.folder).items():
        torch.testing.assert_close(tensors(two.folder)[name], value, rtol=0, atol=ATOL)


@pytest.mark.slow
def test_two_processes_with_batch_statistics_go_through_and_go_on(tmp_path: Path):
    run = pretrain.pretrain(pretraining(tmp_path, "moco", devices=2))
    assert run.complete
    assert len(rows(run.folder)) == 2
