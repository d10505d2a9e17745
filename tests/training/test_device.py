import pytest
import torch

from training import device
from training.config import TrainConfig
from training.device import (
    FEWEST_STEPS,
    cpu_name,
    describe,
    pick_device,
    pick_precision,
)
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
    monkeypatch.setattr(device, "_has_compiler", lambda: True)
    assert device.pick_compile(TrainConfig(), FEWEST_STEPS)
    assert not device.pick_compile(TrainConfig(), FEWEST_STEPS - 1)
    assert not device.pick_compile(TrainConfig(backbone="timm/resnet18"), FEWEST_STEPS)
    assert not device.pick_compile(TrainConfig(devices=2), FEWEST_STEPS)
    assert not device.pick_compile(TrainConfig(compile="off"), FEWEST_STEPS)
    assert device.pick_compile(TrainConfig(compile="on"), 1)


def test_nothing_is_compiled_without_a_compiler(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(device, "_has_compiler", lambda: False)
    assert not device.pick_compile(TrainConfig(), FEWEST_STEPS)
    with pytest.raises(ConfigError, match=r"--compile on needs a C\+\+ compiler"):
        device.pick_compile(TrainConfig(compile="on"), 1)
