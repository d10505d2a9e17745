from pathlib import Path

import numpy as np
import pytest
import torch

from tests.cli import Command
from tests.folders import many
from training import data, devices


@pytest.mark.parametrize(
    ("flag", "value", "valid"),
    [
        ("--backbone", "resnet21", ["resnet20", "resnet32", "wrn-40-2", "timm/"]),
        ("--backbone", "timm/resnet19", ["resnet18", "did you mean"]),
        ("--data", "cifar11", ["cifar10", "digits", "npz:FILE", "folder:DIR", "mnist"]),
        ("--transformations", "spiral", ["rotation", "rotation2"]),
        ("--objective", "magic", ["baseline", "sla-sd"]),
        ("--optim.name", "sgdd", ["sgd", "adamw"]),
        ("--optim.schedule", "linear", ["cosine", "step", "constant"]),
        ("--device", "tpu", ["auto", "cpu", "cuda"]),
        ("--class-weights", "drw", ["balanced", "effective", "deferred"]),
        ("--policy", "augmix", ["randaugment", "autoaugment", "trivialaugment"]),
    ],
)
def test_unknown_name_is_answered_with_the_valid_ones(
    refused: Command, tmp_path: Path, flag: str, value: str, valid: list[str]
):
    said = refused("train", "--out", tmp_path / "run", flag, value)
    assert all(name in said for name in valid)
    assert not (tmp_path / "run").exists()


def test_name_like_none_of_timms_gets_no_guess(refused: Command, tmp_path: Path):
    said = refused("train", "--out", tmp_path / "run", "--backbone", "timm/nope")
    assert "timm has no model 'nope'; `timm.list_models()` names all of them" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--epochs", "0"], "--epochs is 0"),
        (["--batch-size", "1"], "--batch-size is 1"),
        (["--optim.lr", "-1"], "must be above 0"),
        (["--temperature", "0"], "--temperature is 0.0; it must be at least 0.01"),
        (["--cutout", "nan"], "--cutout is nan"),
        (["--temperature", "inf"], "--temperature is inf; it must be a number up to 1000.0"),
        (
            ["--optim.weight-decay", "inf"],
            "--optim.weight-decay is inf; it must be a finite number",
        ),
        (["--image-size", "100000"], "--image-size is 100000; it must be a number up to 4096"),
        (["--ldam", "nan"], "--ldam is nan"),
        (["--imbalance", "0.5"], "--imbalance is 0.5"),
        (["--train-images", "0"], "--train-images is 0"),
        (["--train-images", "2000"], "--train-images is 2000; there are 1295 images to train on"),
        (["--train-images", "9"], "--train-images is 9; it must be at least 10"),
        (["--val-fraction", "2"], "--val-fraction is 2"),
        (["--devices", "0"], "--devices is 0"),
        (["--devices", "100000"], "--devices 100000, but there are 4 processors here"),
        (["--devices", "3"], "128 images cannot be shared evenly by 3 devices"),
        (["--pretrained"], "resnet20, which has no published weights"),
        (["--weights", "nowhere.pt"], "--weights nowhere.pt does not exist"),
        (["--pretrained", "--weights", "w.pt", "--backbone", "timm/resnet18"], "are both given"),
        (["--optim.backbone-lr-factor", "-0.5"], "--optim.backbone-lr-factor is -0.5"),
        (["--epochs", "many"], "many"),
        (["--no-such-flag"], "no-such-flag"),
    ],
)
def test_bad_number_or_flag(
    refused: Command,
    tmp_path: Path,
    arguments: list[str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(devices, "available_cpus", lambda: 4)
    monkeypatch.setattr(devices, "launch", lambda *_: pytest.fail("processes are started"))
    assert said in refused("train", "--out", tmp_path / "run", *arguments)


def test_place_for_a_run_below_a_file_is_refused_before_images_are_read(
    refused: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(data, "load", lambda config: pytest.fail("the data is read"))
    (tmp_path / "file").touch()
    assert "cannot make the run folder" in refused("train", "--out", tmp_path / "file" / "run")


def test_weights_with_code_in_them(refused: Command, tmp_path: Path):
    torch.save({"stem.0.weight": Path("code")}, tmp_path / "w.pt")
    said = refused("train", "--weights", tmp_path / "w.pt", "--out", tmp_path / "run")
    assert "cannot be read as weights" in said
    assert not (tmp_path / "run").exists()


def test_folder_with_one_class(refused: Command, tmp_path: Path):
    many(tmp_path / "data" / "cats", 4)
    said = refused("train", "--data", f"folder:{tmp_path / 'data'}", "--out", tmp_path / "run")
    assert "1 class (cats)" in said
    assert "at least 2" in said


def test_empty_folder(refused: Command, tmp_path: Path):
    (tmp_path / "data").mkdir()
    said = refused("train", "--data", f"folder:{tmp_path / 'data'}", "--out", tmp_path / "run")
    assert "a folder of images for each class" in said


def test_folder_that_is_not_there(refused: Command, tmp_path: Path):
    said = refused("train", "--data", f"folder:{tmp_path / 'data'}", "--out", tmp_path / "run")
    assert "does not exist" in said


def test_unreadable_files_are_named_and_counted_and_skipped_only_on_request(
    refused: Command, carried_out: Command, tmp_path: Path
):
    for name in ("cats", "dogs"):
        many(tmp_path / "data" / name, 12)
    (tmp_path / "data" / "cats" / "notes.jpg").write_text("no picture")
    whole = (tmp_path / "data" / "dogs" / "000.png").read_bytes()
    (tmp_path / "data" / "dogs" / "half.png").write_bytes(whole[: len(whole) // 2])
    arguments = ["train", "--data", f"folder:{tmp_path / 'data'}", "--out", tmp_path / "run"]
    arguments += ["--epochs", "1", "--batch-size", "4", "--image-size", "16"]
    arguments += ["--backbone", "resnet8", "--val-fraction", "0.2", "--device", "cpu"]
    said = refused(*arguments)
    assert "cannot be read" in said
    assert "--skip-unreadable" in said
    assert "notes.jpg" in said or "half.png" in said
    printed = carried_out(*arguments, "--skip-unreadable")
    assert "notes.jpg" in printed
    assert "half.png" in printed


def test_npz_with_a_missing_key(refused: Command, tmp_path: Path):
    np.savez(tmp_path / "data.npz", train_images=np.zeros((4, 8, 8, 3), np.uint8))
    said = refused("train", "--data", f"npz:{tmp_path / 'data.npz'}", "--out", tmp_path / "run")
    assert "has no 'train_labels'; it has ['train_images']" in said


def test_npz_with_a_wrong_shape(refused: Command, tmp_path: Path):
    np.savez(tmp_path / "data.npz", train_images=np.zeros((4, 3, 8, 8)), train_labels=np.arange(4))
    said = refused("train", "--data", f"npz:{tmp_path / 'data.npz'}", "--out", tmp_path / "run")
    assert "float64 (4, 3, 8, 8)" in said
    assert "(n, H, W, 3)" in said


def test_rotation_of_images_that_are_not_square(refused: Command, tmp_path: Path):
    images = np.zeros((20, 8, 12, 3), np.uint8)
    np.savez(tmp_path / "data.npz", train_images=images, train_labels=np.arange(20) % 2)
    said = refused("train", "--data", f"npz:{tmp_path / 'data.npz'}", "--out", tmp_path / "run")
    assert "needs square images, got 8 x 12" in said
    assert "--image-size 8" in said
