import time
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.training.runs import rows
from training.evaluate import Metrics
from training.history import History, columns

FEW = {"plain": Metrics(top1=0.5, nll=1.0, ece=0.1, n=4)}
MANY = {"plain": Metrics(top1=0.5, nll=1.0, ece=0.1, n=4, top5=0.75)}


def add(folder: Path, epoch: int, val: dict[str, Metrics]) -> None:
    folder.mkdir(exist_ok=True)
    with History(folder) as history:
        add_to(history, epoch, val)


def add_to(history: History, epoch: int, val: dict[str, Metrics]) -> None:
    losses, values = {"train_loss": 1.0 / epoch}, columns(val)
    history.add(epoch, step=epoch, lr=0.1, losses=losses, values=values, images_per_second=10)


def shown(folder: Path) -> list[tuple[int, float]]:
    """The losses that TensorBoard shows, by epoch."""
    board = EventAccumulator(str(folder / "tensorboard")).Reload()
    return [(event.step, event.value) for event in board.Scalars("train_loss")]


def test_tensorboard_is_up_to_date_after_every_epoch_in_one_file(tmp_path: Path):
    with History(tmp_path) as history:
        for epoch in (1, 2, 4):
            add_to(history, epoch, FEW)
            assert shown(tmp_path)[-1] == (epoch, 1.0 / epoch)
    assert len(list((tmp_path / "tensorboard").iterdir())) == 1


def test_tensorboard_forgets_what_a_killed_run_had_written_ahead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with History(tmp_path) as history:
        for epoch in (1, 2, 3):
            add_to(history, epoch, FEW)
    later = time.time() + 5
    monkeypatch.setattr(time, "time", lambda: later)  # files are read in the order of their seconds
    with History(tmp_path) as history:
        add_to(history, 2, FEW)
    assert [epoch for epoch, _ in shown(tmp_path)] == [1, 2]


def test_top5_is_written_where_there_is_one(tmp_path: Path):
    add(tmp_path / "many", 1, MANY)
    add(tmp_path / "few", 1, FEW)
    assert rows(tmp_path / "many")[0]["val_plain_top5"] == "0.75"
    assert "val_plain_top5" not in rows(tmp_path / "few")[0]


def test_a_file_goes_on_with_the_columns_that_it_began_with(tmp_path: Path):
    """A run of an older version, which wrote fewer columns, is gone on with."""
    add(tmp_path, 1, FEW)
    add(tmp_path, 2, MANY)
    first, second = rows(tmp_path)
    assert first.keys() == second.keys()
    assert (second["epoch"], second["val_plain_ece"]) == ("2", "0.1")
