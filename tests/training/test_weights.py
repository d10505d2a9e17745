"""Weights in files: found in the shapes that files have, refused where they are another network's."""

import hashlib
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor

from tests.training.pretrained import assert_taken, save, start_of, weights_of
from training.errors import WeightsError

# where the weights come from

BOXES: dict[str, Callable[[dict[str, Tensor]], dict[str, Any]]] = {
    "bare": lambda w: w,
    "with a classifier": lambda w: w | {"fc.weight": torch.ones(3, 64), "fc.bias": torch.ones(3)},
    "state_dict": lambda w: {"epoch": 3, "state_dict": w},
    "model": lambda w: {"model": w, "optimizer": {"lr": 0.1}},
    "module.": lambda w: {f"module.{key}": value for key, value in w.items()},
    "module.backbone.": lambda w: {
        **{f"module.backbone.{key}": value for key, value in w.items()},
        "module.head.weight": torch.ones(3, 64),
    },
    "without counters": lambda w: {k: v for k, v in w.items() if not k.endswith("_tracked")},
    "half precision": lambda w: {k: v.half() if v.is_floating_point() else v for k, v in w.items()},
}


@pytest.mark.parametrize("box", BOXES)
def test_weights_are_found_in_the_shapes_that_files_have(box: str, tmp_path: Path):
    weights = weights_of("resnet8")
    torch.save(BOXES[box](weights), tmp_path / "weights.pt")
    found = start_of(tmp_path / "weights.pt").tensors
    if box == "half precision":
        assert found["stem.0.weight"].dtype == torch.float32
        weights = {k: v.half().to(v.dtype) for k, v in weights.items()}
    assert_taken(found, weights)


def test_what_is_left_out_is_said(tmp_path: Path):
    weights = weights_of("resnet8") | {"fc.weight": torch.ones(3, 64), "fc.bias": torch.ones(3)}
    start = start_of(save(tmp_path / "w.safetensors", weights))
    assert start.left_out == ("fc.bias", "fc.weight")
    number = len(weights) - 2
    assert start.describe((32, 32)) == (
        f"the backbone starts from w.safetensors: {number} tensors taken, 2 left out (fc.bias, fc.weight)"
    )


def test_file_is_named_with_its_digest_and_without_its_folder(tmp_path: Path):
    path = save(tmp_path / "w.safetensors", weights_of("resnet8"))
    assert start_of(path).provenance == {
        "source": "file",
        "file": "w.safetensors",
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "licence": "unknown",
    }


def test_file_of_a_timm_model_is_normalised_as_published_weights_are(tmp_path: Path):
    path = save(tmp_path / "w.safetensors", weights_of("timm/test_vit", size=(32, 32)))
    start = start_of(path, "timm/test_vit", (32, 32))
    assert start.mean == start.std == (127.5, 127.5, 127.5)
    own = start_of(save(tmp_path / "own.safetensors", weights_of("resnet8")))
    assert own.mean is own.std is None  # then it is the data's


def test_positions_learnt_at_another_size_are_resampled(tmp_path: Path):
    torch.manual_seed(0)
    whole = timm.create_model("test_vit", img_size=(64, 64)).state_dict()
    start = start_of(save(tmp_path / "w.safetensors", whole), "timm/test_vit", (32, 32))
    assert start.left_out == ("head.bias", "head.weight")
    assert start.tensors["pos_embed"].shape[1] < whole["pos_embed"].shape[1]
    del start.tensors["pos_embed"]
    assert_taken(start.tensors, {key: whole[key] for key in start.tensors})


# what cannot be started from


class Bomb:
    """Runs a command where it is unpickled without care."""

    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.victim,))


def test_code_in_a_file_is_refused_and_not_executed(tmp_path: Path):
    victim = tmp_path / "executed"
    torch.save({"stem.0.weight": torch.ones(1), "bomb": Bomb(victim)}, tmp_path / "a.pt")
    (tmp_path / "b.pkl").write_bytes(pickle.dumps(Bomb(victim)))
    for name in ("a.pt", "b.pkl"):
        with pytest.raises(WeightsError, match="is not executed") as refused:
            start_of(tmp_path / name)
        assert "weights_only" not in str(refused.value)  # torch's advice is to execute it
    assert not victim.exists()
    torch.load(tmp_path / "a.pt", weights_only=False)
    assert victim.exists()  # the bomb was live


@pytest.mark.parametrize("content", [b"", b"no weights", b"PK\x03\x04zip", b"\x80\x02}q\x00."])
@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
def test_file_that_holds_no_weights_is_refused(content: bytes, name: str, tmp_path: Path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match=r"cannot be read as weights|holds no weights"):
        start_of(tmp_path / name)


@pytest.mark.parametrize("content", [torch.ones(3), [torch.ones(3)], {"epoch": 3}, 5])
def test_file_of_something_else_is_refused(content: Any, tmp_path: Path):
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match="holds no weights by name"):
        start_of(tmp_path / "w.pt")


@pytest.mark.parametrize(
    ("given", "backbone", "said"),
    [
        ("resnet20", "resnet8", r"holds no weights of resnet8: more \(stages\.3\."),
        ("resnet8", "resnet20", r"holds no weights of resnet20: \d+ missing \(stages\.3\."),
        ("wrn-16-2", "resnet8", r"missing \(stem\.0\.weight"),
        ("timm/resnet34", "timm/resnet18", r"more \(layer1\.2\."),  # whose names and shapes agree
        ("timm/test_vit", "timm/test_resnet", "missing"),
    ],
)
def test_weights_of_another_network_are_refused(
    given: str, backbone: str, said: str, tmp_path: Path
):
    path = save(tmp_path / "w.safetensors", weights_of(given, size=(32, 32)))
    with pytest.raises(WeightsError, match=said):
        start_of(path, backbone, (32, 32))


@pytest.mark.parametrize(
    ("backbone", "name"), [("resnet8", "stem.0.weight"), ("timm/test_resnet", "conv1.0.weight")]
)
def test_weights_of_another_shape_are_refused(backbone: str, name: str, tmp_path: Path):
    weights = weights_of(backbone, size=(32, 32))
    shape = tuple(weights[name].shape)
    weights[name] = weights[name][:1]
    path = save(tmp_path / "w.safetensors", weights)
    with pytest.raises(WeightsError) as caught:
        start_of(path, backbone, (32, 32))
    assert f"1 of another shape ({name} {(1, *shape[1:])}, not {shape})" in str(caught.value)
