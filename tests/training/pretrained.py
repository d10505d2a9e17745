"""Weights to start from, for tests."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from training.backbones import build_backbone
from training.config import TrainConfig
from training.pretrained import Start, read_start

SIZE = (8, 8)


def weights_of(name: str, seed: int = 7, size: tuple[int, int] = SIZE) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    return build_backbone(name, size).state_dict()


def save(path: Path, tensors: Mapping[str, Tensor]) -> Path:
    save_file({key: value.contiguous() for key, value in tensors.items()}, path)
    return path


def start_of(path: Path, backbone: str = "resnet8", size: tuple[int, int] = SIZE) -> Start:
    start = read_start(TrainConfig(backbone=backbone, weights=path), size)
    assert start is not None
    return start


def assert_taken(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert [key for key in found if not torch.equal(found[key], expected[key])] == []
