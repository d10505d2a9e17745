"""`viewfold pretrain` on folders of images without labels, and on what lies beside folders of classes."""

import dataclasses
from pathlib import Path

import pytest

from tests.folders import many
from tests.training.pretraining import interrupt_after, of_photos, photos
from tests.training.runs import rows
from training import checkpoint
from training.errors import ConfigError, DataError
from training.pretrain import pretrain
from training.pretrain_config import MethodConfig, PretrainConfig


def test_folder_of_folders_without_classes_is_learnt_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    run = pretrain(of_photos(photos(tmp_path), unlabelled=True))
    assert "9 images to learn from, 3 held out, no labels" in capsys.readouterr().out
    assert checkpoint.open_any(run.folder).problem.classes == ()
    assert "val_knn_top1" not in rows(run.folder)[0]


def test_folder_of_images_needs_no_flag_and_its_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    config = of_photos(photos(tmp_path) / "2020", unlabelled=False)
    config = dataclasses.replace(config, batch_size=2)
    with monkeypatch.context() as patch:
        interrupt_after(patch, 0)
        run = pretrain(config)
    assert pretrain(PretrainConfig(resume=run.folder)).complete


@pytest.mark.parametrize("below", ["", "train"])
def test_images_beside_folders_of_classes_are_counted_where_they_are_left_out(
    below: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    folder = photos(tmp_path)
    if below:
        (tmp_path / "whole").mkdir()
        folder = folder.rename(tmp_path / "whole" / below)
    many(folder, 5)
    (folder / ".hidden.png").touch()
    (folder / "notes.txt").touch()
    given = folder.parent if below else folder
    pretrain(of_photos(given, out=tmp_path / "classes"))
    said = capsys.readouterr().out
    assert (
        "warning: 5 images beside the folders of classes are left out; --unlabelled takes" in said
    )
    pretrain(of_photos(given, out=tmp_path / "all", unlabelled=True))
    assert "left out" not in capsys.readouterr().out


def test_unlabelled_folder_with_splits_leaves_its_test_images_alone(tmp_path: Path):
    for name, count in (("train", 12), ("test", 30)):
        photos(tmp_path / "of", count).rename(tmp_path / name)
    (tmp_path / "split").mkdir()
    for name in ("train", "test"):
        (tmp_path / name).rename(tmp_path / "split" / name)
    run = pretrain(of_photos(tmp_path / "split", unlabelled=True))
    assert sum(checkpoint.open_any(run.folder).problem.counts) == 12


def test_a_single_folder_of_photos_is_told_of_the_flag(tmp_path: Path):
    with pytest.raises(DataError, match="without classes, give --unlabelled"):
        pretrain(of_photos(photos(tmp_path, 1)))


def test_few_held_out_images_are_no_collapse(tmp_path: Path):
    config = of_photos(photos(tmp_path), unlabelled=True)
    data = dataclasses.replace(config.data, val_fraction=0.01)
    run = pretrain(dataclasses.replace(config, data=data))
    assert run.result()["collapsed"] is False


def test_supervised_pretraining_of_unlabelled_images_is_refused(tmp_path: Path):
    config = of_photos(photos(tmp_path), method="supervised", unlabelled=True)
    with pytest.raises(ConfigError, match="supervised learns from labels, and folder:"):
        pretrain(dataclasses.replace(config, settings=MethodConfig()))
