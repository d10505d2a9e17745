"""`viewfold predict --engine ray`, on a Ray that runs here."""

import gc
import json
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from serving import on_ray
from serving.offline import OfflineError, Unreadable
from serving.predict_files import PredictConfig, predict
from serving.predictor import Predictor
from tests.folders import many, photos, spoil
from tests.pictures import BLUE, GREEN, RED

# Ray's, of its own making
OF_RAY = ("ignore::DeprecationWarning:ray", "ignore::FutureWarning:ray", "ignore::ResourceWarning")
pytestmark = [pytest.mark.filterwarnings(each) for each in OF_RAY]


@pytest.fixture
def config(colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PredictConfig:
    monkeypatch.chdir(tmp_path)
    return PredictConfig(colours, ("photos",), "out.parquet", device="cpu", engine="ray")


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    """A Ray of two processors, of which tasks are as small as two images."""
    ray = pytest.importorskip("ray", reason="an optional extra")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setattr(on_ray, "_TASK_IMAGES", 2)
        with left_behind():
            ray.init(
                num_cpus=2, include_dashboard=False, logging_level="error", log_to_driver=False
            )
        yield ray
        with left_behind():
            ray.shutdown()


@contextmanager
def left_behind() -> Iterator[None]:
    """Processes and sockets that Ray leaves to the garbage collector are collected here, and trouble no other test."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
        gc.collect()


def parts(out: str) -> list[dict[str, Any]]:
    """The rows of a folder of parts, in the order of the parts' names."""
    from pyarrow import csv, parquet

    found: list[dict[str, Any]] = []
    for part in sorted(Path(out).iterdir()):
        if part.suffix == ".parquet":
            found += parquet.read_table(part).to_pylist()
        elif part.suffix == ".csv":
            text = csv.ConvertOptions(strings_can_be_null=True)
            found += csv.read_csv(part, convert_options=text).to_pylist()
        else:
            found += [json.loads(line) for line in part.read_text().splitlines()]
    return found


def leaves(value: Any) -> Iterator[Any]:
    """All that is in a row, with names before what they name."""
    if isinstance(value, dict | list):
        for name, entry in value.items() if isinstance(value, dict) else enumerate(value):
            yield name
            yield from leaves(entry)
    else:
        yield value


def same(one: Any, other: Any) -> bool:
    """Whether rows are the same; numbers as near as float32 in another batch."""
    pairs = list(zip(leaves(one), leaves(other), strict=True))
    return all(a == (pytest.approx(b, abs=1e-6) if isinstance(b, float) else b) for a, b in pairs)


@pytest.mark.slow
@pytest.mark.usefixtures("ray")
@pytest.mark.parametrize("out", ["out.parquet", "out.csv", "out.jsonl"])
def test_parts_hold_the_rows_that_one_machine_writes(config: PredictConfig, out: str):
    spoil(many(Path("photos"), 9))
    photos(Path("more"), {"é, b.png": GREEN})
    paths = ("more/é, b.png", "photos")
    config = replace(config, paths=paths, top_k=2, probabilities=True, skip_unreadable=True)
    predict(replace(config, out=out))
    assert len(list(Path(out).iterdir())) > 1
    Path("one").mkdir()
    one = f"one/{'out.jsonl' if out == 'out.jsonl' else 'out.parquet'}"
    predict(replace(config, engine="local", out=one))
    found, expected = parts(out), parts("one")
    assert len(found) == 14
    assert same(found, expected)
    assert not same(found, [*expected[1:], expected[0]])


@pytest.mark.slow
@pytest.mark.usefixtures("ray")
def test_unreadable_images_are_counted_once_and_named(config: PredictConfig):
    spoil(many(Path("photos"), 6))
    with pytest.raises(OfflineError) as caught:
        predict(config)
    said = str(caught.value)
    assert "4 of 10 images cannot be read and have no answer in out.parquet" in said
    assert "\n  photos/002-text.png: not an image" in said
    assert sum(row["error"] is not None for row in parts("out.parquet")) == 4
    assert sorted(os.listdir()) == ["out.parquet", "photos"]


@pytest.mark.slow
@pytest.mark.usefixtures("ray")
def test_images_and_parts_may_lie_at_addresses(config: PredictConfig, tmp_path: Path):
    photos(tmp_path / "my photos", {"b/100%.png": RED, "a.png": BLUE, ".hidden/c.png": RED})
    (tmp_path / "my photos" / "notes.txt").write_text("no picture")
    address = f"file://{tmp_path}/my%20photos"
    at = replace(config, paths=(address,), out=f"file://{tmp_path}/out.parquet")
    predict(at)
    rows = parts("out.parquet")
    assert [(row["path"], row["label"]) for row in rows] == [
        (f"{address}/a.png", "blue"),
        (f"{address}/b/100%25.png", "red"),
    ]
    with pytest.raises(OfflineError, match="is there already"):
        predict(at)
    predict(replace(at, overwrite=True))
    assert len(parts("out.parquet")) == 2


@pytest.mark.slow
@pytest.mark.usefixtures("ray")
def test_parts_that_are_there_are_replaced_only_on_request_and_as_a_whole(
    config: PredictConfig, monkeypatch: pytest.MonkeyPatch
):
    many(Path("photos"), 3)
    predict(config)
    before = parts("out.parquet")
    with pytest.raises(OfflineError, match="--overwrite replaces"):
        predict(config)
    many(Path("photos"), 5)
    with monkeypatch.context() as patch:
        patch.setattr(on_ray, "_write", fail)
        with pytest.raises(RuntimeError, match="disk"):
            predict(replace(config, overwrite=True))
    assert parts("out.parquet") == before
    predict(replace(config, overwrite=True))
    assert len(parts("out.parquet")) == 5
    assert sorted(os.listdir()) == ["out.parquet", "photos"]


def fail(rows: Any, target: str, suffix: str, *, at_once: int) -> None:
    Path(target).mkdir()
    raise RuntimeError("disk")


def test_a_folder_that_holds_more_than_parts_is_never_replaced(config: PredictConfig):
    pytest.importorskip("ray", reason="an optional extra")
    many(Path("photos"), 1)
    photos(Path("out.parquet"), {"a.png": RED})
    with pytest.raises(OfflineError, match="holds more than parts"):
        predict(replace(config, overwrite=True))
    assert os.listdir("out.parquet") == ["a.png"]


def test_without_ray_one_sentence_says_how_to_get_it(
    config: PredictConfig, monkeypatch: pytest.MonkeyPatch
):
    many(Path("photos"), 1)
    monkeypatch.setattr(on_ray, "find_spec", lambda name: None)
    with pytest.raises(OfflineError, match=r"pip install 'viewfold\[ray\]'"):
        predict(replace(config, out="out.csv"))


@pytest.mark.parametrize(
    ("cluster", "device", "workers", "expected"),
    [
        ({"CPU": 8.0}, "auto", None, (8, 1, 0)),
        ({"CPU": 8.0}, "cpu", 3, (2, 3, 0)),
        ({"CPU": 1.0}, "auto", 4, (1, 4, 0)),
        ({"CPU": 8.0, "GPU": 2.0}, "auto", None, (2, 1, 1)),
        ({"CPU": 8.0, "GPU": 2.0}, "cpu", 2, (4, 2, 0)),
        ({"CPU": 8.0}, "cuda", None, (1, 1, 1)),  # Ray says that it waits for a GPU
    ],
)
def test_actors_take_what_the_cluster_has(
    config: PredictConfig, cluster: dict[str, float], device: Any, workers: Any, expected: Any
):
    pytest.importorskip("ray", reason="an optional extra")
    job = on_ray.Job(config.bundle, "distilled", device, None, workers)  # type: ignore[arg-type]
    found = on_ray._resources(job, cluster)
    most, cpus, gpus = expected
    assert (found["compute"].max_size, found["num_gpus"]) == (most, gpus)
    assert cpus - 0.5 < found["num_cpus"] < cpus  # the rest is for what writes


def test_an_image_that_is_told_twice_counts_once():
    tally = on_ray.Tally()
    tally.add({"b.png": "damaged"})
    tally.add({"b.png": "damaged", "a.png": "empty"})
    found = tally.all()
    assert isinstance(found, Unreadable)
    assert (found.count, found.named) == (2, "\n  a.png: empty\n  b.png: damaged")


def test_actor_answers_as_a_process_does(config: PredictConfig):
    pytest.importorskip("pyarrow", reason="an optional extra")
    from serving.rows import Layout

    many(Path("photos"), 2)
    layout = Layout(("red", "green", "blue"))
    actor = on_ray.Answering(on_ray.Job(config.bundle, "distilled", "cpu", layout), None)
    places = [os.fsencode(os.path.abspath(f"photos/{name}.png")) for name in ("001", "000")]
    table = actor({"place": places, "name": ["b", "a"]}).to_pylist()
    assert [row["path"] for row in table] == ["b", "a"]
    assert [row["label"] for row in table] == ["blue", "blue"]
    assert isinstance(actor._predictor, Predictor)
