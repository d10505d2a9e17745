from pathlib import Path

import pytest
import torch

from serving.images import ImageSpec
from tests.training.runs import settings
from training import device, step
from training.checkpoint import Problem, Run
from training.config import TrainConfig
from training.device import (
    FEWEST_STEPS,
    cpu_name,
    describe,
    pick_device,
    pick_precision,
)
from training.devices import ALONE
from training.errors import ConfigError

CPU = torch.device("cpu")
no_cuda = pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here")


@no_cuda
def test_cuda_is_an_error_where_there_is_none():
    with pytest.raises(ConfigError, match="no usable CUDA device"):
        pick_device("cuda")


@no_cuda
def test_auto_is_the_cpu_where_there_is_no_cuda():
    assert pick_device("auto") == CPU


def test_cpu_is_the_cpu():
    assert pick_device("cpu") == CPU


def test_precision_that_was_asked_for_is_taken():
    assert pick_precision("fp32", CPU) == "32-true"
    assert pick_precision("bf16", CPU) == "bf16-mixed"


@pytest.mark.parametrize(("capable", "name"), [(True, "bf16-mixed"), (False, "32-true")])
def test_auto_precision_follows_what_the_processor_computes_in(
    capable: bool, name: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(
        torch.cpu, "get_capabilities", lambda: {"avx512_bf16": capable}, raising=False
    )
    assert pick_precision("auto", CPU) == name


def test_description_names_the_processor_and_its_threads():
    assert cpu_name() in describe(CPU)
    assert f"{torch.get_num_threads()} threads" in describe(CPU)


def test_short_runs_others_backbones_and_several_devices_are_not_compiled(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(device, "has_compiler", lambda: True)
    assert device.pick_compile(TrainConfig(), FEWEST_STEPS)
    assert not device.pick_compile(TrainConfig(), FEWEST_STEPS - 1)
    assert not device.pick_compile(TrainConfig(backbone="timm/resnet18"), FEWEST_STEPS)
    assert not device.pick_compile(TrainConfig(devices=2), FEWEST_STEPS)
    assert not device.pick_compile(TrainConfig(compile="off"), FEWEST_STEPS)
    assert device.pick_compile(TrainConfig(compile="on"), 1)


def test_nothing_is_compiled_without_a_compiler(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(device, "has_compiler", lambda: False)
    assert not device.pick_compile(TrainConfig(), FEWEST_STEPS)
    with pytest.raises(ConfigError, match=r"--compile on needs a C\+\+ compiler"):
        device.pick_compile(TrainConfig(compile="on"), 1)


def test_kernels_are_tried_out_for_cuda_alone(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    device.quickest_kernels(CPU)
    assert not torch.backends.cudnn.benchmark
    device.quickest_kernels(torch.device("cuda"))
    assert torch.backends.cudnn.benchmark


def test_kernels_are_tried_out_for_the_device_of_a_classifier_that_learns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    asked: list[torch.device] = []
    monkeypatch.setattr(step, "quickest_kernels", asked.append)
    problem = Problem(
        ("a", "b"), ImageSpec(8, 8), (90.0,) * 3, (60.0,) * 3, 1, True, (40, 4, 20), {}
    )
    step.set_up(Run(tmp_path, settings(tmp_path), problem), ALONE)
    assert asked == [ALONE.device]
