"""`viewfold pretrain`, from settings to a run folder."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.training.pretraining import (
    NARROW,
    STEPS,
    interrupt_after,
    of_photos,
    photos,
    pretraining,
)
from tests.training.runs import rows, settings
from training import checkpoint
from training.classify import train
from training.config import DataConfig, OptimConfig, TrainConfig
from training.encoder import Encoder
from training.errors import CheckpointError, ConfigError, DataError, DivergedError
from training.pretrain import pretrain
from training.pretrain_config import MethodConfig, PretrainConfig, ViewsConfig


def tensors(folder: Path, name: str = "last/weights") -> dict[str, torch.Tensor]:
    return load_file(folder / f"{name}.safetensors")


def assert_same(one: Path, two: Path) -> None:
    for name in ("best/weights", "last/weights", "last/optimizer"):
        first, second = tensors(one, name), tensors(two, name)
        assert first.keys() == second.keys()
        assert [key for key in first if not torch.equal(first[key], second[key])] == []
    assert rows(one) == rows(two)


# resume: as an uninterrupted run, whatever state the method has


@pytest.mark.parametrize("method", sorted(NARROW))
def test_interrupted_run_ends_as_an_uninterrupted_one(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    whole = pretrain(pretraining(tmp_path, method, out=tmp_path / "whole"))
    with monkeypatch.context() as patch:
        interrupt_after(patch, STEPS + 1)
        run = pretrain(pretraining(tmp_path, method))
    assert not run.complete
    assert pretrain(PretrainConfig(resume=run.folder)).complete
    assert_same(whole.folder, run.folder)


def test_run_goes_on_where_its_images_have_moved_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with monkeypatch.context() as patch:
        interrupt_after(patch, 0)
        folder = pretrain(of_photos(photos(tmp_path), unlabelled=True)).folder
    moved = (tmp_path / "photos").rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="photos does not exist; if it has moved, give --data"):
        pretrain(PretrainConfig(resume=folder))
    others = photos(tmp_path / "others", seed=1)
    with pytest.raises(DataError, match="of the 3 that the run keeps differ"):
        pretrain(PretrainConfig(resume=folder, data=DataConfig(data=f"folder:{others}")))
    assert pretrain(PretrainConfig(resume=folder, data=DataConfig(data=f"folder:{moved}"))).complete


def test_same_seed_gives_the_same_run_and_another_seed_another(tmp_path: Path):
    first, again, other = (
        pretrain(pretraining(tmp_path, out=tmp_path / name, seed=seed, epochs=1)).folder
        for name, seed in (("one", 0), ("again", 0), ("other", 1))
    )
    assert_same(first, again)
    name = "encoder.backbone.stem.0.weight"
    assert not torch.equal(tensors(first)[name], tensors(other)[name])


def test_interruption_says_how_to_go_on_and_other_settings_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    interrupt_after(monkeypatch, 1)
    folder = pretrain(pretraining(tmp_path)).folder
    assert f"viewfold pretrain --resume {folder}" in capsys.readouterr().out
    changed = PretrainConfig(
        resume=folder, method="byol", views=ViewsConfig(flip=0.1), optim=OptimConfig(lr=1.0)
    )
    with pytest.raises(ConfigError, match=r"--views.flip, --method cannot be given with"):
        pretrain(changed)


# what a run leaves


def test_losses_are_written_down_by_name_and_add_up(tmp_path: Path):
    run = pretrain(pretraining(tmp_path, "simclr"))
    for row in rows(run.folder):
        parts = {key: float(row[key]) for key in ("simclr", "augself_crop", "augself_color")}
        total = parts["simclr"] + parts["augself_crop"] + 0.5 * parts["augself_color"]
        assert float(row["train_loss"]) == pytest.approx(total, rel=1e-5)
        assert {"feature_std", "effective_rank", "val_knn_top1"} <= row.keys()


def test_neighbours_of_the_held_out_images_are_those_that_are_learnt_from(tmp_path: Path):
    """Black and white pictures are told apart by any encoder; of the held-out ones every label is wrong."""
    images = np.zeros((36, 8, 8, 3), np.uint8)
    labels = np.arange(36) % 2
    images[labels == 1] = 255
    path = tmp_path / "set.npz"
    held = {"val_images": images[:12], "val_labels": 1 - labels[:12]}
    np.savez(
        path, train_images=images, train_labels=labels, **held,
        test_images=images[:4], test_labels=labels[:4],
    )  # fmt: skip
    run = pretrain(pretraining(tmp_path, epochs=1))
    assert float(rows(run.folder)[0]["val_knn_top1"]) == 0


def test_encoder_is_kept_alone_and_is_that_of_the_last_epoch(tmp_path: Path):
    run = pretrain(pretraining(tmp_path))
    kept, whole = tensors(run.folder, "best/weights"), tensors(run.folder)
    encoder = {k.removeprefix("encoder."): v for k, v in whole.items() if k.startswith("encoder.")}
    assert kept.keys() == encoder.keys()
    assert all(torch.equal(value, encoder[key]) for key, value in kept.items())


def test_plain_method_has_no_heads_of_augself(tmp_path: Path):
    run = pretrain(pretraining(tmp_path, augself="", epochs=1))
    assert not [name for name in tensors(run.folder) if name.startswith("augself")]
    assert [name for name in rows(run.folder)[0] if name.startswith("augself")] == []


def test_learning_rate_follows_the_batch_unless_it_is_given(tmp_path: Path):
    optim = OptimConfig(nesterov=False, warmup=0.0)
    run = pretrain(pretraining(tmp_path, optim=optim, epochs=1))
    assert checkpoint.open_any(run.folder).config.optim.lr == pytest.approx(0.03 * 8 / 256)


def test_encoder_is_the_start_of_a_classifier(tmp_path: Path):
    run = pretrain(pretraining(tmp_path))
    tuned = train(settings(tmp_path, weights=run.folder, epochs=1, out=tmp_path / "tuned"))
    given = checkpoint.open_run(tuned.folder).problem.pretrained_weights
    assert given is not None
    assert (given["source"], given["method"], given["augself"]) == (
        "viewfold",
        "simsiam",
        "crop=1,color=0.5",
    )
    kept = tensors(run.folder, "best/weights")
    assert tuple(checkpoint.open_run(tuned.folder).problem.mean) == pytest.approx(
        tuple(kept["mean"].flatten().tolist())
    )


def test_an_encoders_run_is_no_classifiers(tmp_path: Path):
    run = pretrain(pretraining(tmp_path, epochs=1))
    with pytest.raises(CheckpointError, match="is no classifier yet; make one of it"):
        checkpoint.open_run(run.folder)
    with pytest.raises(CheckpointError, match="was made by `viewfold pretrain`"):
        train(TrainConfig(resume=run.folder))


def test_collapse_is_said_while_it_trains_and_at_the_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    def dead(self: Encoder, images: torch.Tensor) -> torch.Tensor:
        return torch.ones(len(images), self.num_features)

    monkeypatch.setattr(Encoder, "forward", dead)
    run = pretrain(pretraining(tmp_path, epochs=1))
    said = capsys.readouterr().out
    assert "collapsed" in said
    assert "THE ENCODER HAS COLLAPSED" in said
    assert run.result()["collapsed"] is True
    assert run.result()["val"]["feature_std"] == pytest.approx(0, abs=1e-6)


# what is refused


def test_empty_folder_and_too_few_images_are_refused(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"0 images .*learns from at least 2"):
        pretrain(of_photos(tmp_path / "empty"))
    config = dataclasses.replace(of_photos(photos(tmp_path), unlabelled=True), batch_size=16)
    with pytest.raises(ConfigError, match="9 images do not fill a batch"):
        pretrain(config)
    assert not (tmp_path / "run").exists()


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "unknown method": ({"method": "dino"}, "unknown --method 'dino'; choose from"),
    "a view that does not vary": (
        {"augself": "solarize=1"},
        "solarize has nothing to predict",
    ),
    "views without colour": (
        {
            "augself": "color=1",
            "views": ViewsConfig(brightness=0.0, contrast=0.0, grey=1.0),
        },
        "color has nothing to predict",
    ),
    "crops that are all the whole picture": (
        {"augself": "crop=1", "views": ViewsConfig(crop_scale=(0.9999, 1.0))},
        "crop has nothing to predict: none of 4,096 pairs of views of 8 x 8 pixels",
    ),
    "negative weight": ({"augself": "crop=-1"}, "a weight must be a number, at least 0"),
    "batch of one": ({"batch_size": 1}, "--batch-size is 1; it must be at least 2"),
    "batch of none": (
        {"batch_size": 0, "method": "moco"},
        "--batch-size is 0; it must be at least 2",
    ),
    "batch of less": ({"batch_size": -4}, "--batch-size is -4; it must be at least 2"),
    "no devices": ({"devices": 0}, "--devices is 0; it must be at least 1"),
    "two processes of one": (
        {"batch_size": 3, "devices": 2},
        "--batch-size 3 leaves 1 image to each of 2 processes; BatchNorm needs at least 2",
    ),
    "three processes of none": (
        {"batch_size": 2, "devices": 3},
        "--batch-size 2 leaves 0 images to each of 3 processes",
    ),
    "queue": (
        {"method": "moco", "settings": MethodConfig(queue=12)},
        "multiple of the --batch-size, 8",
    ),
    "other method's setting": (
        {"settings": MethodConfig(queue=16)},
        "--queue is a setting of --method moco",
    ),
    "views": ({"views": ViewsConfig(flip=2.0)}, "--views.flip is 2.0"),
    "epochs": ({"epochs": 0}, "--epochs is 0"),
    "learning rate": ({"optim": OptimConfig(lr=0.0)}, "--optim.lr is 0.0"),
    "backbone's rate": (
        {"optim": OptimConfig(backbone_lr_factor=0.1)},
        "--optim.backbone-lr-factor is for fine-tuning",
    ),
    "backbone": ({"backbone": "resnet9"}, "unknown backbone 'resnet9'"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_settings_that_cannot_work_are_refused_before_anything_is_written(
    what: str, tmp_path: Path
):
    changes, message = REFUSED[what]
    with pytest.raises(ConfigError, match=message):
        pretrain(pretraining(tmp_path, **changes))
    assert not (tmp_path / "run").exists()


def test_loss_that_diverges_is_said(tmp_path: Path):
    optim = OptimConfig(lr=1e6, nesterov=False, warmup=0.0)
    with pytest.raises(DivergedError, match=r"try a lower --optim\.lr"):
        pretrain(pretraining(tmp_path, "supervised", optim=optim, epochs=8))
