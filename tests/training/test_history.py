from pathlib import Path

from tests.training.runs import rows
from training.evaluate import Metrics
from training.history import History, columns

FEW = {"plain": Metrics(top1=0.5, nll=1.0, ece=0.1, n=4)}
MANY = {"plain": Metrics(top1=0.5, nll=1.0, ece=0.1, n=4, top5=0.75)}


def add(folder: Path, epoch: int, val: dict[str, Metrics]) -> None:
    folder.mkdir(exist_ok=True)
    history = History(folder)
    losses, values = {"train_loss": 1.0}, columns(val)
    history.add(epoch, step=epoch, lr=0.1, losses=losses, values=values, images_per_second=10)


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
