"""Pretraining on several processes: what two of them leave is what one leaves, BatchNorm aside.

The heads normalise by their own process's rows on a CPU (torch's SyncBatchNorm refuses CPU tensors), so here they
normalise each image by itself, in one process and in two alike.
"""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from serving.images import ImageSpec
from tests.training.pretraining import NARROW, pretraining
from tests.training.runs import of_two_processes, rows
from tests.training.test_pretrain import tensors
from training import loop, pretrain
from training.checkpoint import Problem, Run
from training.pretrain_config import PretrainConfig
from training.pretrain_step import build_pretraining, synchronised

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
@of_two_processes
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
@of_two_processes
def test_two_processes_go_on_as_if_they_had_not_been_interrupted(tmp_path: Path):
    config = pretraining(tmp_path, "moco", devices=2)
    whole = pretrain.pretrain(dataclasses.replace(config, epochs=1, out=tmp_path / "whole"))
    # stopped before the first step: the run folder of a process that was killed there
    begun = pretrain.pretrain(dataclasses.replace(config, epochs=1, out=tmp_path / "begun"))
    shutil.rmtree(begun.folder / "last")
    (begun.folder / "result.json").unlink()
    again = pretrain.pretrain(PretrainConfig(resume=begun.folder))
    assert again.complete
    for name, value in tensors(whole.folder).items():
        assert torch.equal(tensors(again.folder)[name], value)


def test_synchronised_statistics_leave_the_activations_of_timms_norms():
    config = dataclasses.replace(
        PretrainConfig(), backbone="timm/mobilenetv3_small_050", augself="crop=1"
    )
    problem = Problem(
        (), ImageSpec(32, 32, "crop", "bicubic"), (127.5,) * 3, (60.0,) * 3, 0, False, (1, 1), {}
    )
    network = build_pretraining(config, problem).eval()
    images = torch.randint(
        0, 256, (2, 32, 32, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
    )
    expected = network.encoder(images)
    converted = synchronised(network)
    assert any(isinstance(module, nn.SyncBatchNorm) for module in converted.modules())
    for module in converted.modules():
        # as on a GPU in evaluation: its own statistics are used, and nobody else is asked
        module.eval()
    torch.testing.assert_close(converted.encoder(images), expected)
