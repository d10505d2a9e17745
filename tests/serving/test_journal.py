"""An interrupted `viewfold predict` goes on where it was, and ends with the same file."""

import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from serving import limits, offline
from serving.journal import JournalError, opened
from serving.offline import OfflineError
from serving.predict_files import PredictConfig, predict
from serving.predictor import Predictor
from tests.bundles import write_bundle
from tests.folders import many, spoil

ROOT = Path(__file__).resolve().parents[2]
COUNT, BATCH = 23, 4
# Run `viewfold predict` with batches of four, and die where {place} says.
KILLED = """
import os, signal, sys
from pathlib import Path
import viewfold
from serving import journal, limits, predictor, tables

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def before_the_third_batch():
    predict, calls = predictor.Predictor.predict, []
    def counted(self, images, mode):
        calls.append(mode)
        return die() if len(calls) == 3 else predict(self, images, mode)
    predictor.Predictor.predict = counted

def within_a_write_to_the_journal():
    add = journal.Journal.add
    def half(self, rows):
        if self.done < 8:
            return add(self, rows)
        self._file.write(b"".join(map(journal._line, rows))[:-20])
        self._file.flush()
        die()
    journal.Journal.add = half

def while_the_file_is_written():
    def some(path, columns, rows):
        path.write_text("the first half of")
        die()
    tables.WRITERS[".csv"] = some

def before_the_file_is_in_its_place():
    Path.replace = lambda self, target: die()

def before_the_journal_is_gone():
    Path.unlink = lambda self, missing_ok=False: die()

limits._BATCH_IMAGES = 4
{place}()
viewfold.main()
"""
PLACES = {  # where a run is killed: how many images are left to do
    "before_the_third_batch": COUNT - 2 * BATCH,
    "within_a_write_to_the_journal": COUNT - 2 * BATCH,
    "while_the_file_is_written": 0,
    "before_the_file_is_in_its_place": 0,
    "before_the_journal_is_gone": 0,
}


@pytest.fixture
def config(colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PredictConfig:
    """Settings to classify 23 pictures, some of which cannot be read, in batches of four."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(limits, "_BATCH_IMAGES", BATCH)
    spoil(many(Path("photos"), COUNT - 4))
    return PredictConfig(
        colours, ("photos",), "out.csv", probabilities=True, device="cpu", skip_unreadable=True
    )


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The places of all images that are decoded in this process."""
    found: list[str] = []
    pixels = offline._pixels

    def noted(place: str, *rest: Any) -> Any:
        found.append(place)
        return pixels(place, *rest)

    monkeypatch.setattr(offline, "_pixels", noted)
    return found


def kill(config: PredictConfig, place: str) -> None:
    """Run the command in a process of its own, which is killed there."""
    arguments = ["predict", str(config.bundle), *config.paths, "--out", config.out]
    arguments += ["--probabilities", "--device", "cpu", "--skip-unreadable"]
    arguments += ["--overwrite"] if config.overwrite else []
    code = KILLED.replace("{place}", place)
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr


def whole(config: PredictConfig) -> bytes:
    """The file of a run that nothing interrupts."""
    predict(replace(config, out="whole.csv"))
    content = Path("whole.csv").read_bytes()
    os.unlink("whole.csv")
    return content


@pytest.mark.parametrize("place", PLACES)
def test_killed_run_goes_on_and_ends_with_the_same_file(
    config: PredictConfig, place: str, decoded: list[str]
):
    expected = whole(config)
    kill(config, place)
    assert Path("out.csv.part").exists()
    decoded.clear()
    predict(config)
    assert len(decoded) == PLACES[place]
    assert Path("out.csv").read_bytes() == expected
    assert sorted(os.listdir()) == ["out.csv", "photos"]


@pytest.mark.parametrize("place", ["before_the_third_batch", "before_the_file_is_in_its_place"])
def test_file_that_is_to_be_replaced_stays_until_the_new_one_is_whole(
    config: PredictConfig, place: str, decoded: list[str]
):
    expected = whole(config)
    Path("out.csv").write_text("the old file")
    replacing = replace(config, overwrite=True)
    kill(replacing, place)
    assert Path("out.csv").read_text() == "the old file"
    decoded.clear()
    predict(replacing)
    assert len(decoded) == PLACES[place]
    assert Path("out.csv").read_bytes() == expected


def interrupt(config: PredictConfig, fault: type[BaseException] = KeyboardInterrupt) -> None:
    """Run it in this process up to the third batch."""
    original, calls = Predictor.predict, []

    def counted(self: Predictor, images: Any, mode: str) -> Any:
        calls.append(mode)
        if len(calls) == 3:
            raise fault
        return original(self, images, mode)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Predictor, "predict", counted)
        with pytest.raises(fault):
            predict(config)


def test_interrupted_run_says_how_far_it_has_come(
    config: PredictConfig, capsys: pytest.CaptureFixture[str]
):
    interrupt(config)
    assert "8 of 23 images are done; the same command goes on" in capsys.readouterr().err
    assert not Path("out.csv").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"mode": "aggregated"}, "of another mode;"),
        ({"top_k": 2}, "of another --top-k;"),
        ({"probabilities": False}, "of another --probabilities;"),
        ({"paths": ("photos/000.png",)}, "of another list of images;"),
        ({"mode": "single", "top_k": 3}, "of another mode and another --top-k;"),
    ],
)
def test_other_settings_do_not_go_on_with_it(
    config: PredictConfig, change: dict[str, Any], said: str
):
    interrupt(config)
    other = replace(config, **change)
    before = Path("out.csv.part").read_bytes()
    with pytest.raises(JournalError, match=f"(?s){said}.*--overwrite to begin again"):
        predict(other)
    assert Path("out.csv.part").read_bytes() == before
    predict(replace(other, overwrite=True))
    found = Path("out.csv").read_bytes()
    os.unlink("out.csv")
    predict(other)
    assert Path("out.csv").read_bytes() == found


def test_another_bundle_does_not_go_on_with_it(config: PredictConfig, tmp_path: Path):
    interrupt(config)
    other = write_bundle(tmp_path / "other", name="other")
    with pytest.raises(JournalError, match="of another bundle;"):
        predict(replace(config, bundle=other))


def test_an_image_more_is_another_list(config: PredictConfig):
    interrupt(config)
    many(Path("photos/more"), 1)
    with pytest.raises(JournalError, match="of another list of images"):
        predict(config)


def test_other_workers_go_on_with_it(config: PredictConfig, decoded: list[str]):
    expected = whole(config)
    interrupt(config, RuntimeError)
    decoded.clear()
    predict(replace(config, workers=1))
    assert len(decoded) == COUNT - 2 * BATCH
    assert Path("out.csv").read_bytes() == expected


def test_a_file_beside_an_unfinished_journal_is_not_replaced_unasked(config: PredictConfig):
    interrupt(config)
    Path("out.csv").write_text("years of work")
    with pytest.raises(OfflineError, match="is there already"):
        predict(config)
    assert Path("out.csv").read_text() == "years of work"


def test_a_file_that_is_no_journal_is_left_alone(config: PredictConfig):
    Path("out.csv.part").write_text("half a download\n")
    with pytest.raises(JournalError, match=r"out\.csv\.part is in the way and no journal"):
        predict(config)
    assert Path("out.csv.part").read_text() == "half a download\n"
    predict(replace(config, overwrite=True))
    assert sorted(os.listdir()) == ["out.csv", "photos"]


@pytest.mark.parametrize("kept", [0, 1, 40])
def test_journal_that_was_cut_in_its_first_line_is_begun_again(config: PredictConfig, kept: int):
    expected = whole(config)
    interrupt(config)
    part = Path("out.csv.part")
    part.write_bytes(part.read_bytes()[:kept])
    predict(config)
    assert Path("out.csv").read_bytes() == expected


def cut(line: bytes) -> bytes:
    return line[:-9]


@pytest.mark.parametrize(
    "spoilt",
    [cut, lambda line: bytes(len(line)), lambda line: b"[]\n", lambda line: line.replace(b"p", b"q")],
)  # fmt: skip
def test_rows_behind_a_damaged_one_are_done_again(
    config: PredictConfig, spoilt: Callable[[bytes], bytes], decoded: list[str]
):
    expected = whole(config)
    interrupt(config)
    part = Path("out.csv.part")
    lines = part.read_bytes().splitlines(keepends=True)
    lines[6] = spoilt(lines[6])  # the second row of the second batch
    part.write_bytes(b"".join(lines))
    decoded.clear()
    predict(config)
    assert len(decoded) == COUNT - BATCH
    assert Path("out.csv").read_bytes() == expected


def test_two_processes_do_not_write_the_same_journal(config: PredictConfig):
    interrupt(config)
    with Path("out.csv.part").open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(JournalError, match="another process is writing it"):
            predict(config)
    predict(config)


def test_rows_are_on_disk_after_every_batch(tmp_path: Path):
    path, names = tmp_path / "journal", [f"{k}.png" for k in range(6)]
    with opened(path, {"mode": "plain"}, names, step=2, afresh=False) as journal:
        for first in (0, 2):
            journal.add([{"path": name} for name in names[first : first + 2]])
            lines = path.read_text().splitlines()
            assert [json.loads(line)["path"] for line in lines[1:]] == names[: first + 2]
    with opened(path, {"mode": "plain"}, names, step=2, afresh=False) as journal:
        assert journal.done == 4
        journal.add([{"path": name} for name in names[4:]])
        assert [row["path"] for row in journal.rows()] == names
