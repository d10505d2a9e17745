"""Runs that have learnt labels of what is held out: known by the place of the data, and by its pictures elsewhere."""

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.data_sets import striped, write_npz
from tests.training.pretraining import pretraining
from tests.training.runs import settings
from training import unseen
from training.batches import ResidentBatches
from training.checkpoint import Run, read_validation_images
from training.classify import train
from training.config import DataConfig
from training.errors import ConfigError
from training.few_shot import fewshot
from training.pretrain import pretrain
from training.probe import probe
from training.probe_config import FewShotConfig, ProbeConfig
from training.unseen import holds, same_place


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished classifier, whose data lies beside it."""
    return train(settings(tmp_path_factory.mktemp("classifier"), objective="sla", epochs=1))


Ask = Callable[[Run[Any], DataConfig, Path], object]


def teach(run: Run[Any], data: DataConfig, out: Path) -> object:
    config = settings(run.folder.parent, objective="distill", teacher=str(run.folder), out=out)
    return train(dataclasses.replace(config, data=data, epochs=1))


def fine_tune(run: Run[Any], data: DataConfig, out: Path) -> object:
    config = settings(run.folder.parent, weights=run.folder, out=out)
    return train(dataclasses.replace(config, data=data, epochs=1))


def evaluate_linearly(run: Run[Any], data: DataConfig, out: Path) -> object:
    return probe(ProbeConfig(run.folder, data, out=out))


ASK = {"teacher": teach, "weights": fine_tune, "probe": evaluate_linearly}


def moved(run: Run[Any], folder: Path, **changes: Any) -> DataConfig:
    """A copy of the run's data under another name."""
    folder.mkdir(exist_ok=True)
    copy = folder / "another name.npz"
    shutil.copy(Path(run.config.data.data.removeprefix("npz:")), copy)
    return dataclasses.replace(run.config.data, data=f"npz:{copy}", **changes)


def namesake(run: Run[Any], folder: Path, **changes: Any) -> DataConfig:
    """Other pictures of the same classes, in a file of the same name."""
    folder.mkdir(exist_ok=True)
    path = folder / Path(run.config.data.data).name
    images, labels = striped(40, seed=7)
    others, other_labels = striped(20, seed=8)
    arrays = {"train_images": images, "train_labels": labels}
    write_npz(path, **arrays, test_images=others, test_labels=other_labels)
    return dataclasses.replace(run.config.data, data=f"npz:{path}", **changes)


@pytest.mark.parametrize("ask", ASK.values(), ids=ASK)
def test_the_same_place_in_another_split_is_refused(classifier: Run, tmp_path: Path, ask: Ask):
    data = dataclasses.replace(classifier.config.data, split_seed=3)
    with pytest.raises(ConfigError, match=r"--split-seed 0, not 3: it has seen images"):
        ask(classifier, data, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("ask", ASK.values(), ids=ASK)
def test_moved_data_in_another_split_is_refused(classifier: Run, tmp_path: Path, ask: Ask):
    data = moved(classifier, tmp_path, val_fraction=0.3)
    with pytest.raises(ConfigError, match=r"--val-fraction 0.1, not 0.3: it has seen images"):
        ask(classifier, data, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("ask", ASK.values(), ids=ASK)
def test_moved_data_in_the_same_split_is_taken(classifier: Run, tmp_path: Path, ask: Ask):
    ask(classifier, moved(classifier, tmp_path), tmp_path / "run")
    assert (tmp_path / "run" / "result.json").exists()


@pytest.mark.parametrize("ask", ASK.values(), ids=ASK)
def test_other_data_of_the_same_name_is_taken(classifier: Run, tmp_path: Path, ask: Ask):
    ask(classifier, namesake(classifier, tmp_path, split_seed=3), tmp_path / "run")
    assert (tmp_path / "run" / "result.json").exists()


def test_few_shots_of_what_was_learnt_are_refused_wherever_it_lies(classifier: Run, tmp_path: Path):
    for data in (classifier.config.data, moved(classifier, tmp_path)):
        with pytest.raises(ConfigError, match="its classes are not new to it"):
            fewshot(FewShotConfig(classifier.folder, data))


def test_few_shots_of_other_data_of_the_same_name_are_taken(classifier: Run, tmp_path: Path):
    data = namesake(classifier, tmp_path)
    config = FewShotConfig(classifier.folder, data, ways=2, queries=2, shots=(1,), episodes=4)
    assert fewshot(config)["shots"][1]["n"] == 4


def test_encoder_that_learnt_no_labels_may_be_asked_about_any_split(tmp_path: Path):
    run = pretrain(pretraining(tmp_path, epochs=1))
    for data in (run.config.data, moved(run, tmp_path)):
        split = dataclasses.replace(data, split_seed=3)
        evaluate_linearly(run, split, tmp_path / Path(data.data).stem)


def test_pictures_are_looked_for_only_where_the_classes_are_the_same(classifier: Run):
    class Unread(ResidentBatches):
        def iterate(self, batches: Any) -> Any:
            raise AssertionError("nothing should be read")

    images = torch.zeros(4, 8, 8, 3, dtype=torch.uint8)
    unread = Unread(images, torch.zeros(4, dtype=torch.int64))
    assert not holds(classifier, ("cat", "dog"), [unread])
    with pytest.raises(AssertionError):
        holds(classifier, classifier.problem.classes, [unread])


def test_reading_ends_with_the_split_that_holds_them(classifier: Run):
    read = []

    class Noted(ResidentBatches):
        def iterate(self, batches: Any) -> Any:
            read.append(self)
            return super().iterate(batches)

    kept, labels = read_validation_images(classifier)
    theirs, rest = Noted(kept, labels), Noted(kept.flip(1), labels)
    assert holds(classifier, classifier.problem.classes, [theirs, rest])
    assert read == [theirs]
    assert holds(classifier, classifier.problem.classes, [rest, theirs])
    assert not holds(classifier, classifier.problem.classes, [rest])


def test_place_is_the_same_by_any_way_of_writing_it(
    classifier: Run, monkeypatch: pytest.MonkeyPatch
):
    path = Path(classifier.config.data.data.removeprefix("npz:"))
    monkeypatch.chdir(path.parent)
    assert same_place(classifier, DataConfig(data=f"npz:{path.name}"))
    assert not same_place(classifier, DataConfig(data=f"npz:other/{path.name}"))
    assert not same_place(classifier, DataConfig(data="digits"))


def test_pictures_are_not_looked_at_where_the_splits_are_made_alike(
    classifier: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    looked = []
    monkeypatch.setattr(unseen, "holds", lambda *_: looked.append(True))
    data = moved(classifier, tmp_path)
    for split in (data, dataclasses.replace(data, split_seed=3)):
        unseen.check_pictures(classifier, split, classifier.problem.classes, [], "a run")
    assert looked == [True]
