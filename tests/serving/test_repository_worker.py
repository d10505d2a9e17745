"""One worker that follows what is wanted, and the folder that is watched: without a server."""

import asyncio
import gc
import logging
import os
import shutil
import threading
import time
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from serving import model
from serving.engine import Processors
from serving.models import Models
from serving.repository import Repository
from serving.repository_state import LOADING, READY, UNAVAILABLE, State
from serving.repository_watch import ABSENT_POLLS, Watcher
from serving.repository_worker import Follower
from serving.settings import Settings
from tests.bundles import replace_bundle, write_bundle

IMAGES = np.zeros((2, 32, 32, 3), dtype=np.uint8)


@dataclass
class Worker:
    """All that a worker has, with what it has been told to load."""

    root: Path
    state: State
    models: Models
    follower: Follower
    watcher: Watcher
    loads: list[str]

    def entries(self) -> list[tuple[str, str, str]]:
        (report,) = self.state.reports()
        return [(entry.name, entry.version, entry.state) for entry in report.entries]

    def look(self, times: int = 2) -> None:
        """Watch for so many looks, and follow."""
        for _ in range(times):
            self.watcher.poll()
            self.follower.follow()


@pytest.fixture
def worker(tmp_path: Path, processors: Processors) -> Iterator[Worker]:
    """A worker of a folder without models; its threads do not run, tests call what they would."""
    root = tmp_path / "models"
    root.mkdir()
    (tmp_path / "state").mkdir()
    state = State(tmp_path / "state")
    state.begin([], None)
    models, loads = Models(), []

    def load(found: model.Bundle, name: str, version: str, digest: str) -> model.Model:
        loads.append(name)
        settings = Settings(device="cpu")
        return model.make(found, settings, processors, name=name, version=version, digest=digest)

    folder = Repository(root)
    follower = Follower(folder, state, models, load, lambda: None)
    found = Worker(root, state, models, follower, Watcher(folder, state, models), loads)
    follower.follow()
    yield found
    found.watcher.close()
    follower.close()


def test_what_is_wanted_is_loaded_and_what_is_not_is_gone(worker: Worker):
    replace_bundle(worker.root / "a")
    generation = worker.state.load(["a", "nothing"])
    worker.follower.follow()
    assert list(worker.models.all) == ["a"]
    assert worker.entries() == [("a", "1", READY), ("nothing", "", UNAVAILABLE)]
    assert worker.state.reports()[0].generation == generation
    worker.state.unload(["a", "nothing"], for_good=True)
    worker.follower.follow()
    assert (list(worker.models.all), worker.entries()) == ([], [])


def test_others_see_that_a_model_is_being_loaded(worker: Worker, monkeypatch: pytest.MonkeyPatch):
    replace_bundle(worker.root / "a")
    seen = []
    report = worker.state.report

    def watched(generation: int, entries: object) -> None:
        report(generation, entries)  # type: ignore[arg-type]
        seen.append(worker.entries())

    monkeypatch.setattr(worker.state, "report", watched)
    worker.state.load(["a"])
    worker.follower.follow()
    assert seen == [[("a", "", LOADING)], [("a", "1", READY)]]


def test_defect_while_loading_ends_nothing(
    worker: Worker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    replace_bundle(worker.root / "a")
    replace_bundle(worker.root / "b")
    with monkeypatch.context() as patch:
        patch.setattr("serving.bundle.read", lambda folder: 1 / 0)
        worker.state.load(["a"])
        worker.follower.follow()
    assert worker.entries() == [("a", "", UNAVAILABLE)]
    assert "a could not be loaded" in caplog.text
    worker.state.load(["b"])
    worker.follower.follow()
    assert list(worker.models.all) == ["b"]


def test_old_models_are_freed_while_their_requests_end_well(worker: Worker):
    """Twenty swaps, with a request on each model that begins before it is replaced and ends after."""
    replace_bundle(worker.root / "a")
    worker.state.load(["a"])
    worker.follower.follow()
    freed = [ask_over_a_swap(worker, f"class{turn}") for turn in range(20)]
    gc.collect()
    assert [reference() for reference in freed] == [None] * len(freed)
    assert worker.loads == ["a"] * 21


def ask_over_a_swap(worker: Worker, label: str) -> "weakref.ref[object]":
    async def ask() -> "weakref.ref[object]":
        old = worker.models.get("a")
        asked = asyncio.create_task(old.engine.answer(IMAGES, "aggregated", explain="copies"))
        await asyncio.sleep(0)
        replace_bundle(worker.root / "a", classes=(label, "green", "blue"))
        worker.state.load(["a"])
        await asyncio.to_thread(worker.follower.follow)
        assert worker.models.get("a").predictor.manifest.classes[0] == label
        assert (await asked).values.shape == (2, 3)
        return weakref.ref(old.predictor._sessions["distilled"])

    return asyncio.run(ask())


def test_new_and_changed_bundles_are_loaded_by_themselves(worker: Worker):
    replace_bundle(worker.root / "a")
    worker.look()
    assert worker.models.get("a").predictor.manifest.classes[0] == "red"
    replace_bundle(worker.root / "a", classes=("x", "y", "z"))
    worker.look()
    assert worker.models.get("a").predictor.manifest.classes[0] == "x"
    generation = worker.state.wanted().generation
    worker.look(5)
    assert worker.state.wanted().generation == generation


def test_folder_that_is_being_written_is_left_alone(worker: Worker):
    write_bundle(worker.root / "a")
    for size in range(5):
        (worker.root / "a" / "growing").write_bytes(bytes(size))
        worker.look(1)
    assert worker.loads == []
    worker.look(1)
    assert worker.loads == ["a"]


def test_bundle_that_lacks_files_is_loaded_once_it_is_whole(
    worker: Worker, caplog: pytest.LogCaptureFixture
):
    replace_bundle(worker.root / "a")
    worker.look()
    write_bundle(worker.root / "b", classes=("x", "y", "z"))
    late = (worker.root / "b" / "single.onnx").read_bytes()
    (worker.root / "b" / "single.onnx").unlink()
    shutil.rmtree(worker.root / "a")
    (worker.root / "b").rename(worker.root / "a")
    with caplog.at_level(logging.WARNING):
        worker.look(4)
    assert worker.models.get("a").predictor.manifest.classes[0] == "red"
    assert worker.entries() == [("a", "1", UNAVAILABLE), ("a", "1", READY)]
    assert caplog.text.count("single.onnx is missing from a") == 1
    (worker.root / "a" / "single.onnx").write_bytes(late)
    worker.look()
    assert worker.models.get("a").predictor.manifest.classes[0] == "x"
    assert worker.entries() == [("a", "1", READY)]


def test_model_that_is_away_for_a_moment_stays(worker: Worker):
    replace_bundle(worker.root / "a")
    worker.look()
    shutil.move(worker.root / "a", worker.root / ".a")
    worker.look(ABSENT_POLLS - 1)
    shutil.move(worker.root / ".a", worker.root / "a")
    worker.look(ABSENT_POLLS)
    assert (list(worker.models.all), worker.loads) == (["a"], ["a"])
    shutil.rmtree(worker.root / "a")
    worker.look(ABSENT_POLLS)
    assert list(worker.models.all) == []
    replace_bundle(worker.root / "a")
    worker.look()
    assert list(worker.models.all) == ["a"]


def test_models_stay_where_the_whole_folder_is_away(
    worker: Worker, caplog: pytest.LogCaptureFixture
):
    replace_bundle(worker.root / "a")
    worker.look()
    worker.root.rename(worker.root.with_name("away"))
    worker.look(ABSENT_POLLS + 1)
    assert list(worker.models.all) == ["a"]
    assert caplog.text.count("folder cannot be read: No such file or directory") == 1
    worker.root.with_name("away").rename(worker.root)


def test_model_that_a_client_unloaded_is_not_brought_back(worker: Worker):
    replace_bundle(worker.root / "a")
    worker.look()
    worker.state.unload(["a"], for_good=True)
    worker.look(3)
    replace_bundle(worker.root / "a", classes=("x", "y", "z"))
    worker.look(3)
    assert list(worker.models.all) == []
    worker.state.load(["a"])
    worker.look(1)
    assert list(worker.models.all) == ["a"]


def test_one_worker_watches_for_all_until_it_ends(worker: Worker):
    other = Watcher(Repository(worker.root), State(worker.state.folder), Models())
    replace_bundle(worker.root / "a")
    worker.look(1)
    for _ in range(3):
        other.poll()
    assert worker.state.wanted().models == {}
    worker.watcher.close()
    for _ in range(2):
        other.poll()
    assert list(worker.state.wanted().models) == ["a"]
    other.close()


def test_a_name_that_is_not_utf8_is_said_once_when_it_comes(
    worker: Worker, caplog: pytest.LogCaptureFixture
):
    def put(name: bytes) -> None:
        os.mkdir(os.fsencode(worker.root) + b"/" + name)
        (worker.root / os.fsdecode(name) / "manifest.json").write_text("{}")

    put(b"caf\xe9")  # the server has said so when it started
    worker.look(2)
    put(b"th\xe9")
    with caplog.at_level(logging.WARNING):
        worker.look(3)
    said = [record.getMessage() for record in caplog.records]
    assert said == [r"th\xe9: not served: the folder's name is not UTF-8"]
    assert worker.state.wanted().models == {}


def test_new_leader_asks_only_for_what_is_not_served(worker: Worker):
    replace_bundle(worker.root / "a")
    replace_bundle(worker.root / "b")
    worker.state.load(["a", "b"])
    worker.follower.follow()
    replace_bundle(worker.root / "b", classes=("x", "y", "z"))
    worker.look(3)
    assert worker.loads == ["a", "b", "b"]
    assert worker.state.wanted().models == {"a": 2, "b": 3}


def test_following_goes_on_after_a_fault(
    worker: Worker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    failed = threading.Event()

    def fail(generation: int, entries: object) -> None:
        failed.set()
        raise OSError(28, "No space left on device")

    replace_bundle(worker.root / "a")
    with monkeypatch.context() as patch:
        patch.setattr(worker.state, "report", fail)
        generation = worker.state.load(["a"])
        worker.follower.start()
        assert failed.wait(20)
    end = time.monotonic() + 20
    while worker.state.reports()[0].generation < generation:
        assert time.monotonic() < end
        time.sleep(0.01)
    assert "what is wanted cannot be followed for now" in caplog.text


def test_same_fault_is_logged_once(worker: Worker, caplog: pytest.LogCaptureFixture):
    (write_bundle(worker.root / "a") / "single.onnx").unlink()
    for _ in range(3):
        worker.state.load(["a"])
        worker.follower.follow()
    assert caplog.text.count("single.onnx is missing from a") == 1


def test_threads_follow_and_watch_by_themselves(worker: Worker, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("serving.repository_watch.POLL_S", 0.02)
    loaded = threading.Event()
    worker.follower._changed = loaded.set
    worker.follower.start()
    worker.watcher.start()
    replace_bundle(worker.root / "a")
    assert loaded.wait(20)
    assert list(worker.models.all) == ["a"]


def test_what_could_not_be_asked_for_is_asked_for_at_the_next_look(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
):
    replace_bundle(worker.root / "a")
    load = worker.state.load

    def fail(names: list[str]) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(worker.state, "load", fail)
    worker.watcher.poll()
    with pytest.raises(OSError, match="No space left"):
        worker.watcher.poll()
    monkeypatch.setattr(worker.state, "load", load)
    worker.look(1)
    assert list(worker.models.all) == ["a"]


def test_manifest_that_no_parser_reads_keeps_no_other_model_away(worker: Worker):
    replace_bundle(worker.root / "a")
    (worker.root / "deep").mkdir()
    (worker.root / "deep" / "manifest.json").write_text("[" * 200_000)
    worker.look(2)
    assert worker.entries() == [("a", "1", READY), ("deep", "1", UNAVAILABLE)]
