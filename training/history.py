"""What a run writes down after every epoch: metrics.csv, and the same for TensorBoard."""

import csv
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from training.errors import CheckpointError
from training.evaluate import Metrics


def read_history(folder: Path) -> list[dict[str, float]]:
    """The rows of a run's metrics.csv, an epoch each; none where there is no such file yet.

    A row that is being written, at the end, is left out.

    Raises:
        CheckpointError: the file is not what `History` writes.
    """
    path = folder / "metrics.csv"
    try:
        with path.open(newline="", encoding="utf-8") as file:
            found = [row for row in csv.DictReader(file) if None not in row.values()]
        return [{key: float(value) for key, value in row.items()} for row in found]
    except FileNotFoundError:
        return []
    except (ValueError, TypeError, csv.Error) as error:
        raise CheckpointError(f"{path} is malformed ({error}); train again") from None


def columns(val: Mapping[str, Metrics]) -> dict[str, float]:
    """The metrics of every mode on the validation split, as columns of metrics.csv."""
    row: dict[str, float] = {}
    for mode, metrics in val.items():
        values = {key: getattr(metrics, key) for key in ("top1", "top5", "nll", "ece")}
        row |= {f"val_{mode}_{key}": v for key, v in values.items() if v is not None}
    return row


class History(AbstractContextManager["History"]):
    """The rows of metrics.csv and TensorBoard's scalars of one run. Leaving it ends the file of scalars."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "metrics.csv"
        self._folder = folder / "tensorboard"
        self._board: SummaryWriter | None = None

    def __exit__(self, *_: object) -> None:
        if self._board is not None:
            self._board.close()
            self._board = None

    def add(
        self,
        epoch: int,
        *,
        step: int,
        lr: float,
        losses: Mapping[str, float],
        values: Mapping[str, float],
        images_per_second: float,
    ) -> None:
        """Write an epoch down. lr: of its last step; losses: their means; values: what validation found."""
        row: dict[str, float] = {"epoch": epoch, "step": step, "lr": lr, **losses, **values}
        row["images_per_second"] = round(images_per_second, 1)
        columns = self._columns()
        with self._path.open("a", newline="") as file:
            writer = csv.DictWriter(
                file, columns or list(row), extrasaction="ignore", lineterminator="\n"
            )
            if columns is None:
                writer.writeheader()
            writer.writerow(row)
        if self._board is None:  # one file for every time that the run is gone on with
            self._board = SummaryWriter(str(self._folder), purge_step=epoch)
        for name, value in row.items():
            if name not in ("epoch", "step"):
                self._board.add_scalar(name, value, epoch)
        self._board.flush()

    def _columns(self) -> list[str] | None:
        """What the file's header names, if it is there: a run goes on with the columns that it began with."""
        if not self._path.exists():
            return None
        with self._path.open(newline="") as file:
            return next(csv.reader(file), None)

    def truncate(self, epochs: int) -> None:
        """Forget what was written after that many epochs (a run that was killed may have written ahead)."""
        if not self._path.exists():
            return
        header, *rows = self._path.read_text().splitlines(keepends=True)
        part = self._path.with_name(self._path.name + ".part")
        part.write_text("".join([header, *rows[:epochs]]))  # a row an epoch, in order
        part.replace(self._path)
