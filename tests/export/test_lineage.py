"""Runs that are all settings and no weights, and what they are held to be."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from export.lineage import of_config, of_run
from serving.images import ImageSpec
from training import checkpoint
from training.checkpoint import Problem, Run
from training.config import AugmentConfig, DataConfig, TrainConfig
from training.pretrain_config import PretrainConfig

PROBLEM = Problem(
    classes=("a", "b"),
    image=ImageSpec(8, 8, "crop", "bicubic"),
    mean=(0.0, 0.0, 0.0),
    std=(1.0, 1.0, 1.0),
    crop_padding_px=1,
    flip=False,
    counts=(4, 1, 1),
    versions={},
)
CUTMIX = AugmentConfig(cutmix=1.0)


def kept(
    folder: Path,
    config: TrainConfig | PretrainConfig,
    pretrained_weights: dict[str, Any] | None = None,
) -> Run[Any]:
    """A run folder with these settings, and a copy of its teacher."""
    problem = dataclasses.replace(PROBLEM, pretrained_weights=pretrained_weights)
    images, labels = torch.zeros(1, 8, 8, 3, dtype=torch.uint8), torch.zeros(1, dtype=torch.int64)
    teacher = None
    if isinstance(config, TrainConfig) and config.teacher not in (None, "ema"):
        teacher = checkpoint.open_run(Path(config.teacher))
    return checkpoint.create_run(folder, config, problem, images, labels, teacher)


def taught(folder: Path, seed: int = 0, **changes: Any) -> Run[Any]:
    """A run that learnt from another of the same seed. changes: of the teacher's settings."""
    made = TrainConfig(objective="sla", seed=seed, data=DataConfig(data="npz:/one/x.npz"))
    teacher = kept(folder / f"teacher-{seed}", dataclasses.replace(made, **changes))
    config = TrainConfig(objective="distill", seed=seed, teacher=str(teacher.folder))
    return kept(folder / f"run-{seed}", config)


def began_with(folder: Path, weights: Path, told: dict[str, Any] | None = None) -> Run[Any]:
    return kept(folder, TrainConfig(objective="baseline", weights=weights), told)


def test_a_teacher_is_what_it_was_trained_as(tmp_path: Path):
    found = of_run(taught(tmp_path, augment=CUTMIX, epochs=80))
    expected = {"teacher": "sla", "teacher.cutmix": "1", "teacher.epochs": "80", "cutmix": "0"}
    assert expected.items() <= found.items()
    assert "npz:x.npz" in found["teacher.data"]
    assert not any(str(tmp_path) in value for value in found.values())


def test_a_teacher_of_another_seed_and_place_is_the_same(tmp_path: Path):
    elsewhere = {"data": DataConfig(data="npz:/two/x.npz", workers=3), "compile": "on"}
    one, two = taught(tmp_path, 0), taught(tmp_path, 1, devices=2, **elsewhere)
    assert of_run(one) == of_run(two)


@pytest.mark.parametrize("changes", [{"augment": CUTMIX}, {"epochs": 80}, {"precision": "bf16"}])
def test_a_teacher_of_other_settings_is_another(tmp_path: Path, changes: dict[str, Any]):
    one, two = taught(tmp_path / "one"), taught(tmp_path / "two", **changes)
    assert of_run(one) != of_run(two)


def test_the_copy_is_asked_not_the_teacher_itself(tmp_path: Path):
    run = taught(tmp_path)
    before = of_run(run)
    shutil.rmtree(tmp_path / "teacher-0")
    assert of_run(run) == before


def test_a_teacher_that_cannot_be_read_counts_by_its_name(tmp_path: Path):
    run = taught(tmp_path)
    (run.folder / "teacher" / "config.json").write_text("{}")
    assert of_run(run)["teacher"] == "teacher-0"


def test_averaged_weights_are_a_teacher_without_settings(tmp_path: Path):
    found = of_run(kept(tmp_path / "run", TrainConfig(teacher="ema", ema=0.9)))
    assert found["teacher"] == "ema"
    assert not any(flag.startswith("teacher.") for flag in found)


def test_an_encoder_is_what_it_was_pretrained_as(tmp_path: Path):
    encoders = [
        kept(tmp_path / f"encoder-{seed}", PretrainConfig(seed=seed, augself="crop=1", epochs=3))
        for seed in (0, 1)
    ]
    one, two = (
        of_run(began_with(tmp_path / f"run-{k}", encoder.folder))
        for k, encoder in enumerate(encoders)
    )
    assert one == two
    expected = {"weights": "simsiam", "weights.augself": "crop=1", "weights.epochs": "3"}
    assert expected.items() <= one.items()


def test_another_checkpoint_of_a_run_is_another_start(tmp_path: Path):
    source = kept(tmp_path / "source", TrainConfig(objective="sla"))
    last = source.folder / "last" / "weights.safetensors"
    last.parent.mkdir()
    last.touch()
    best_one = of_run(began_with(tmp_path / "one", source.folder))
    last_one = of_run(began_with(tmp_path / "two", last))
    assert (best_one["weights"], best_one["weights.checkpoint"]) == ("sla", "best")
    assert best_one | {"weights.checkpoint": "last"} == last_one


def test_a_run_that_is_gone_counts_by_the_name_that_was_kept(tmp_path: Path):
    told = {"source": "viewfold", "model": "encoder/last"}
    run = began_with(tmp_path / "run", tmp_path / "encoder" / "last" / "weights.safetensors", told)
    assert of_run(run)["weights"] == "encoder/last"
    assert of_run(run) == of_config(run.config, told)


def test_files_of_one_name_are_told_apart_by_what_they_hold(tmp_path: Path):
    paths = [tmp_path / name / "weights.pt" for name in "ab"]
    told = [{"source": "file", "file": "weights.pt", "sha256": digit * 64} for digit in "001"]
    one, moved, other = (
        of_config(TrainConfig(weights=path), said)
        for path, said in zip([*paths, paths[0]], told, strict=True)
    )
    assert one == moved != other
    assert one["weights"] == "weights.pt"


def test_runs_that_began_with_one_another_come_to_an_end(tmp_path: Path):
    """As it happens where a run is replaced by one that begins with what began with it."""
    first = kept(tmp_path / "first", TrainConfig(objective="sla"))
    second = began_with(tmp_path / "second", first.folder)
    shutil.rmtree(first.folder)
    again = began_with(tmp_path / "first", second.folder)
    found = of_run(again)
    assert (found["weights"], found["weights.weights"]) == ("baseline", "first")
