"""`viewfold predict`: images and folders into one table."""

import asyncio
import csv
import json
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tyro

from serving import limits, model, tables
from serving.bundle import BundleError
from serving.classification import classify
from serving.engine import Processors
from serving.form import Form
from serving.offline import OfflineError
from serving.payload import Item
from serving.predict_files import PredictConfig, predict
from serving.predictor import ModeError, Predictor
from serving.settings import Settings
from tests.bundles import CLASSES, write_bundle, write_embedder
from tests.folders import many, photos, spoil
from tests.pictures import BLUE, COLOURS, GREEN, RED

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "offline.md"
Rows = list[dict[str, Any]]


@pytest.fixture
def config(colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PredictConfig:
    """Settings to classify `photos`, where a test has put some, from the folder that holds them."""
    monkeypatch.chdir(tmp_path)
    return PredictConfig(colours, ("photos",), "out.jsonl", device="cpu", workers=2)


def read(out: str) -> Rows:
    """The rows of a file, as JSON would have them: in CSV all text, in which nothing is None."""
    path = Path(out)
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    if path.suffix == ".csv":
        with path.open(encoding="utf-8", newline="") as file:
            return [{k: v or None for k, v in row.items()} for row in csv.DictReader(file)]
    parquet = pytest.importorskip("pyarrow.parquet", reason="an optional extra")
    found: Rows = parquet.read_table(path).to_pylist()
    return found


def test_every_image_has_a_row_in_order(config: PredictConfig):
    photos(Path("photos"), {"b/2.png": GREEN, "a.jpg": RED, "b/1.PNG": BLUE, ".hidden.png": RED})
    Path("photos/notes.txt").write_text("no picture, and not called like one")
    predict(config)
    rows = read(config.out)
    assert [(row["path"], row["label"], row["index"]) for row in rows] == [
        ("photos/a.jpg", "red", 0),
        ("photos/b/1.PNG", "blue", 2),
        ("photos/b/2.png", "green", 1),
    ]
    assert [list(row) for row in rows] == [["path", "label", "index", "confidence", "error"]] * 3
    assert all(row["confidence"] > 0.9 and row["error"] is None for row in rows)
    assert sorted(os.listdir()) == ["out.jsonl", "photos"]


def test_rows_follow_the_paths_and_a_file_counts_whatever_it_is_called(config: PredictConfig):
    photos(Path("photos"), {"1.png": RED, "sub/2.png": GREEN, "sub/.cache/3.png": BLUE})
    photos(Path("more"), {"z": BLUE, ".hidden": RED})
    predict(replace(config, paths=("more/z", "./photos/", "more/.hidden")))
    paths = [row["path"] for row in read(config.out)]
    assert paths == ["more/z", "photos/1.png", "photos/sub/2.png", "more/.hidden"]
    assert [os.path.isfile(path) for path in paths] == [True] * 4


@pytest.mark.parametrize("out", ["out.csv", "out.jsonl", "out.parquet"])
def test_every_format_says_what_a_request_would_be_answered(
    config: PredictConfig, out: str, processors: Processors
):
    if out.endswith("parquet"):
        pytest.importorskip("pyarrow", reason="an optional extra")
    spoil(many(Path("photos"), 3))
    predict(replace(config, out=out, top_k=2, probabilities=True, skip_unreadable=True))
    loaded = model.load(Settings(config.bundle, device="cpu"), processors)
    rows = {row["path"]: row for row in read(out)}
    assert len(rows) == 7
    for name in ("000", "001", "002"):
        row = rows[f"photos/{name}.png"]
        item = Item(Path(row["path"]).read_bytes())
        form = Form((item,), many=False, model=None, mode=None, top_k=3, explain=None)
        answer = asyncio.run(classify(loaded, form))
        first, second, _ = answer["top"]
        assert (row["label"], int(row["index"])) == (answer["label"], answer["index"])
        assert float(row["confidence"]) == pytest.approx(answer["confidence"], abs=1e-7)
        said = [row["top"][1]["label"], row["top"][1]["probability"]] if out == "out.jsonl" else [
            row["label_2"], row["confidence_2"]
        ]  # fmt: skip
        assert (said[0], float(said[1])) == (second["label"], pytest.approx(second["probability"]))
        shares = row["probabilities"] if out == "out.jsonl" else [row[f"p_{c}"] for c in CLASSES]
        expected = {top["label"]: top["probability"] for top in answer["top"]}
        assert dict(zip(CLASSES, map(float, shares), strict=True)) == pytest.approx(expected)
        assert first["label"] == row["label"]
        assert row["error"] is None
    bad = rows["photos/002-text.png"]
    assert bad["error"].startswith("not an image in a known format")
    assert [bad[key] for key in bad if key not in ("path", "error")] == [None] * (len(bad) - 2)


def test_numbers_are_float32_in_as_few_digits_as_that_takes(config: PredictConfig):
    many(Path("photos"), 1)
    predict(replace(config, out="out.csv"))
    (row,) = read("out.csv")
    assert len(row["confidence"]) <= 12


def test_parquet_has_types_and_groups(config: PredictConfig, monkeypatch: pytest.MonkeyPatch):
    parquet = pytest.importorskip("pyarrow.parquet", reason="an optional extra")
    monkeypatch.setattr(tables, "_GROUP_ROWS", 3)
    many(Path("photos"), 7)
    predict(replace(config, out="out.parquet", probabilities=True))
    file = parquet.ParquetFile("out.parquet")
    kinds = {field.name: str(field.type) for field in file.schema_arrow}
    assert kinds == {
        "path": "string", "label": "string", "index": "int32", "confidence": "float",
        "p_red": "float", "p_green": "float", "p_blue": "float", "error": "string",
    }  # fmt: skip
    assert [file.metadata.row_group(k).num_rows for k in range(3)] == [3, 3, 1]


def test_mode_is_the_one_asked_for_and_no_other_is_loaded(
    config: PredictConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    many(Path("photos"), 2)
    used: list[tuple[str, list[str]]] = []
    original = Predictor.predict

    def noted(self: Predictor, images: Any, mode: str) -> Any:
        used.append((mode, list(self._sessions)))
        return original(self, images, mode)

    monkeypatch.setattr(Predictor, "predict", noted)
    predict(replace(config, mode="aggregated"))
    predict(replace(config, out="default.jsonl"))
    assert used == [("aggregated", ["aggregated"]), ("distilled", ["distilled"])]
    assert "out.jsonl: 2 images by colours, aggregated, in " in capsys.readouterr().out


@pytest.mark.parametrize("out", ["out.csv", "out.jsonl", "out.parquet"])
def test_odd_names_come_back_as_they_are(config: PredictConfig, out: str):
    names = [
        'a,"b".png',
        "line\nbreak.png",
        "carriage\rreturn.png",
        "=1+1.png",
        " é .png",
        "-x.png",
    ]
    photos(Path("photos"), dict.fromkeys(names, RED))
    if out.endswith("parquet"):
        pytest.importorskip("pyarrow", reason="an optional extra")
    predict(replace(config, out=out))
    assert [row["path"] for row in read(out)] == sorted(f"photos/{name}" for name in names)


@pytest.mark.parametrize("out", ["out.csv", "out.jsonl", "out.parquet"])
def test_bytes_that_are_no_text_are_written_by_their_numbers(
    config: PredictConfig, out: str, capsys: pytest.CaptureFixture[str]
):
    if out.endswith("parquet"):
        pytest.importorskip("pyarrow", reason="an optional extra")
    many(Path("photos"), 1)
    try:
        Path(os.fsdecode(b"photos/\xe9t\xe9.png")).write_text("text")
    except OSError:
        pytest.skip("this file system takes names in UTF-8 alone")
    predict(replace(config, out=out, skip_unreadable=True))
    assert [row["path"] for row in read(out)] == ["photos/000.png", r"photos/\xe9t\xe9.png"]
    assert r"photos/\xe9t\xe9.png: not an image" in capsys.readouterr().out


def test_unreadable_images_are_named_and_the_file_is_written_all_the_same(config: PredictConfig):
    spoil(many(Path("photos"), 6))
    with pytest.raises(OfflineError) as caught:
        predict(config)
    said = str(caught.value)
    assert "4 of 10 images cannot be read and have no answer in out.jsonl" in said
    assert "give --skip-unreadable" in said
    for name in (
        "002-empty.png: the image is empty",
        "002-text.png: not an",
        "004-half.png: ",
        "005-link.png: No such file",
    ):
        assert f"\n  photos/{name}" in said
    assert sum(row["error"] is None for row in read(config.out)) == 6
    assert sorted(os.listdir()) == ["out.jsonl", "photos"]


def test_unreadable_images_may_be_skipped(
    config: PredictConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(limits, "_BATCH_IMAGES", 1)  # batches in which nothing is left
    spoil(many(Path("photos"), 6))
    predict(replace(config, skip_unreadable=True))
    assert "002-text.png: not an image" in capsys.readouterr().out
    assert len(read(config.out)) == 10


def test_images_of_which_none_can_be_read_are_an_error_that_cannot_be_skipped(
    config: PredictConfig,
):
    Path("photos").mkdir()
    Path("photos/a.png").write_text("text")
    with pytest.raises(OfflineError, match=r"none of the 1 images can be read:\n  photos/a\.png"):
        predict(replace(config, skip_unreadable=True))


def one() -> None:
    many(Path("photos"), 1)


@pytest.mark.parametrize(
    ("prepare", "changed", "said"),
    [
        (one, {"paths": ()}, "no images are given"),
        (one, {"paths": ("photos", "lost.png")}, "lost.png is neither a file nor a folder"),
        (lambda: Path("photos").mkdir(), {}, r"photos has no images \(\.avif, "),
        (one, {"paths": ("photos", "photos/000.png")}, "photos/000.png is given twice"),
        (one, {"paths": ("photos", "photos/../photos/")}, r"000.png is given twice \(as photos/000"),
        (one, {"paths": ("s3://bucket/photos",)}, "is an address; --engine ray reads those"),
        (one, {"out": "out.txt"}, r"called something\.csv or something\.jsonl or something\.parquet"),
        (one, {"out": "out"}, "must be called something"),
        (one, {"out": "no/out.csv"}, "there is no folder no"),
        (lambda: (one(), Path("out.jsonl").mkdir()), {"overwrite": True}, "is there already"),
        (one, {"workers": 0}, "--workers is 0; it must be at least 1"),
        (one, {"top_k": 0}, "--top-k is 0; this bundle has 1 to 3 classes"),
        (one, {"top_k": 4}, "--top-k is 4; this bundle has 1 to 3 classes"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_one_sentence(
    config: PredictConfig, prepare: Callable[[], object], changed: dict[str, Any], said: str
):
    prepare()
    with pytest.raises(OfflineError, match=said):
        predict(replace(config, **changed))
    assert set(os.listdir()) <= {"photos", "out.jsonl"}


def test_bundles_that_will_not_do_are_refused(config: PredictConfig, tmp_path: Path):
    one()
    with pytest.raises(OfflineError, match="is an encoder's bundle and knows no classes"):
        predict(replace(config, bundle=write_embedder(tmp_path / "encoder")))
    with pytest.raises(ModeError, match="unknown mode 'plain'; this bundle has"):
        predict(replace(config, mode="plain"))
    with pytest.raises(BundleError, match="is not a bundle"):
        predict(replace(config, bundle=tmp_path / "photos"))


def test_classes_of_one_name_cannot_be_columns(config: PredictConfig, tmp_path: Path):
    one()
    twins = write_bundle(tmp_path / "twins", classes=("red", "red", "blue"))
    with pytest.raises(OfflineError, match=r"have the same name .* write a \.jsonl"):
        predict(replace(config, bundle=twins, out="out.csv", probabilities=True))
    predict(replace(config, bundle=twins, probabilities=True))
    assert len(read(config.out)[0]["probabilities"]) == 3


def test_parquet_without_pyarrow_is_one_sentence(
    config: PredictConfig, monkeypatch: pytest.MonkeyPatch
):
    one()
    monkeypatch.setattr(tables.importlib.util, "find_spec", lambda name: None)  # type: ignore[attr-defined]
    with pytest.raises(OfflineError, match=r"pip install 'viewfold\[parquet\]'"):
        predict(replace(config, out="out.parquet"))


def test_a_file_that_is_there_is_replaced_only_on_request(config: PredictConfig):
    one()
    Path(config.out).write_text("years of work")
    with pytest.raises(OfflineError, match="--overwrite replaces"):
        predict(config)
    assert Path(config.out).read_text() == "years of work"
    predict(replace(config, overwrite=True))
    assert len(read(config.out)) == 1


def test_classes_are_those_of_the_colours(config: PredictConfig):
    photos(Path("photos"), {f"{name}.png": colour for name, colour in COLOURS.items()})
    predict(replace(config, out="out.csv"))
    assert {row["path"]: row["label"] for row in read("out.csv")} == {
        f"photos/{name}.png": name for name in COLOURS
    }


def test_commands_and_flags_of_the_document_exist(capsys: pytest.CaptureFixture[str]):
    text = DOCUMENT.read_text()
    commands = re.findall(r"^viewfold predict (.*)$", text, re.MULTILINE)
    assert len(commands) == 3
    for command in commands:
        tyro.cli(PredictConfig, args=command.split())
    with pytest.raises(SystemExit):
        tyro.cli(PredictConfig, args=["--help"])
    known = capsys.readouterr().out
    for flag in set(re.findall(r"`(--[\w-]+)", text)):
        assert flag in known, flag
