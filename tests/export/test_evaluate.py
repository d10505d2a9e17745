import dataclasses
import hashlib
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from export.config import EvaluateConfig
from export.errors import ExportError
from export.evaluate import run as evaluate
from serving import bundle as contract
from serving.predictor import Predictor
from tests.runs import write_npz
from training import checkpoint
from training.checkpoint import Run
from training.errors import ConfigError, DataError
from training.evaluate import wilson_interval
from training.json_files import write_json

pytestmark = pytest.mark.slow


def test_a_bundle_is_worth_what_its_run_is_worth(exported: Path, trained: Run):
    of_run = evaluate(EvaluateConfig((trained.folder,)))
    of_bundle = evaluate(EvaluateConfig((exported,), data=trained.config.data.data))
    assert (of_run["engine"], of_bundle["engine"]) == ("torch", "onnxruntime")
    for mode, values in of_run["modes"].items():
        found = of_bundle["modes"][mode]
        assert found.keys() == values.keys()
        for key in ("top1", "nll", "ece", "forward_passes", "n", "top1_interval"):
            assert found[key] == pytest.approx(values[key], abs=1e-5)
        assert found["confusion"] == values["confusion"]
        assert found["per_class"] == values["per_class"]


def test_auto_is_measured_like_every_mode_and_its_passes_are_a_mean(
    exported: Path, trained: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    manifest = contract.read(exported).manifest
    assert manifest.auto is not None
    folder, data = shutil.copytree(exported, tmp_path / "bundle"), trained.config.data.data
    predictor, arrays = Predictor(contract.read(folder), device="cpu"), np.load(data[4:])
    first, every = (
        predictor.predict(arrays["test_images"], mode) for mode in ("distilled", "aggregated")
    )
    threshold = float(np.sort(first.max(1))[9])  # the tenth of 21
    auto = dataclasses.replace(manifest.auto, threshold=threshold)
    changed = dataclasses.replace(manifest, auto=auto)
    (folder / contract.MANIFEST).write_text(contract.encode(changed), encoding="utf-8")
    result = evaluate(EvaluateConfig((folder,), data=data, curve=True))
    found = result["modes"]["auto"]
    assert found["forward_passes"] == pytest.approx(1 + 3 * 10 / 21)
    answers = np.where((first.max(1) <= threshold)[:, None], every, first)
    assert found["top1"] == pytest.approx((answers.argmax(1) == arrays["test_labels"]).mean())
    curve = result["curve"]
    assert [row["forward_passes"] for row in curve] == sorted(
        row["forward_passes"] for row in curve
    )
    assert (curve[0]["top1"], curve[-1]["top1"]) == tuple(
        pytest.approx(result["modes"][mode]["top1"]) for mode in ("distilled", "aggregated")
    )
    printed = capsys.readouterr().out
    assert "2.429 passes" in printed
    assert re.search(r"auto at other thresholds:\n +threshold +in doubt +passes +top-1\n", printed)
    assert len(re.findall(r"^ +\d\.\d{7} +[\d.]+ % +\d\.\d\d +[\d.]+ %$", printed, re.M)) == 11


def test_a_run_has_no_curve(trained: Run, exported: Path):
    with pytest.raises(ExportError, match="--curve is of bundles with the mode auto"):
        evaluate(EvaluateConfig((trained.folder,), curve=True))
    with pytest.raises(ExportError, match="--curve prints one run or bundle"):
        evaluate(EvaluateConfig((trained.folder, exported), curve=True))


def test_evaluation_of_a_run_repeats_what_training_wrote_down(trained: Run):
    again = evaluate(EvaluateConfig((trained.folder,)))
    for mode, values in trained.result()["test"].items():
        found = again["modes"][mode]
        assert {key: found[key] for key in values} == pytest.approx(values, abs=1e-6)


def test_a_bundle_of_files_asks_where_they_are(exported: Path):
    with pytest.raises(ExportError, match=r"npz:colours.npz\); give --data"):
        evaluate(EvaluateConfig((exported,)))


def test_other_splits_and_data_can_be_asked_for(trained: Run, tmp_path: Path):
    assert evaluate(EvaluateConfig((trained.folder,), split="val"))["modes"]["single"]["n"] == 12
    other = write_npz(tmp_path / "other.npz", side=20)  # of another size: resized as everywhere
    result = evaluate(EvaluateConfig((trained.folder,), data=f"npz:{other}"))
    assert result["modes"]["single"]["n"] == 21


def test_place_of_torchvisions_sets_is_refused_for_other_data(trained: Run, tmp_path: Path):
    with pytest.raises(DataError, match="--data-dir is for torchvision's data sets"):
        evaluate(EvaluateConfig((trained.folder,), data_dir=tmp_path))


def test_numbers_are_written_as_json(trained: Run, tmp_path: Path):
    result = evaluate(EvaluateConfig((trained.folder,), json=tmp_path / "numbers.json"))
    assert json.loads((tmp_path / "numbers.json").read_text()) == result


def test_json_that_could_not_be_written_is_said_first(trained: Run, tmp_path: Path):
    with pytest.raises(ConfigError, match="there is no folder"):
        evaluate(EvaluateConfig((trained.folder,), json=tmp_path / "nowhere" / "numbers.json"))
    with pytest.raises(ConfigError, match="is a folder; give the name of a file"):
        evaluate(EvaluateConfig((trained.folder,), json=tmp_path))
    assert not tmp_path.with_name(tmp_path.name + ".part").exists()


def test_unknown_split_lists_the_valid_ones(trained: Run):
    with pytest.raises(ExportError, match=r"unknown split 'x'; choose from .*train.*val.*test"):
        evaluate(EvaluateConfig((trained.folder,), split="x"))


def test_data_of_other_classes_is_refused(trained: Run):
    with pytest.raises(ExportError, match="has the classes"):
        evaluate(EvaluateConfig((trained.folder,), data="digits"))


def test_accuracy_of_every_class_and_the_confusion_add_up(trained: Run):
    result = evaluate(EvaluateConfig((trained.folder,)))
    assert result["classes"] == ["red", "green", "blue"]
    for values in result["modes"].values():
        rows = [entry["n"] for entry in values["per_class"]]
        assert rows == [sum(row) for row in values["confusion"]] == [7, 7, 7]
        right = sum(entry["n"] * entry["accuracy"] for entry in values["per_class"])
        assert right == pytest.approx(values["n"] * values["top1"])
        assert values["top5"] is None
        assert values["top1_interval"] == list(wilson_interval(round(right), values["n"]))


def test_a_class_without_images_has_no_accuracy(
    trained: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    other = write_npz(tmp_path / "other.npz")
    arrays = dict(np.load(other))
    kept = arrays["test_labels"] != 1
    arrays |= {key: arrays[key][kept] for key in ("test_images", "test_labels")}
    np.savez(other, **arrays)
    settings = EvaluateConfig((trained.folder,), data=f"npz:{other}", per_class=True)
    values = evaluate(settings)["modes"]["single"]
    assert values["per_class"][1] == {"class": "green", "n": 0, "accuracy": None}
    assert values["confusion"][1] == [0, 0, 0]
    printed = capsys.readouterr().out
    assert re.search(r"green +0 +no images", printed)
    assert "top-1" in printed
    assert "top-5" not in printed


def test_a_bundle_that_does_not_say_how_it_was_trained_is_refused(exported: Path, tmp_path: Path):
    folder = shutil.copytree(exported, tmp_path / "bundle")
    found = contract.read(folder).manifest
    silent = dataclasses.replace(found, provenance={})
    (folder / contract.MANIFEST).write_text(contract.encode(silent), encoding="utf-8")
    with pytest.raises(ExportError, match="does not say how it was trained"):
        evaluate(EvaluateConfig((folder,)))


def test_no_path_is_asked_for():
    with pytest.raises(ExportError, match="takes a run folder or a bundle"):
        evaluate(EvaluateConfig(()))


def test_a_path_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(ExportError, match="nowhere does not exist"):
        evaluate(EvaluateConfig((tmp_path / "nowhere",)))


def test_the_same_path_twice_is_refused(trained: Run):
    again = trained.folder.parent / "." / trained.folder.name
    with pytest.raises(ExportError, match="is given twice"):
        evaluate(EvaluateConfig((trained.folder, again)))


def test_classes_of_several_are_not_asked_for_one_by_one(trained: Run, exported: Path):
    with pytest.raises(ExportError, match="read --json FILE"):
        evaluate(EvaluateConfig((trained.folder, exported), per_class=True))


def test_runs_of_other_classes_are_not_compared(trained: Run, run: Run):
    path = run.folder / "problem.json"
    other = json.loads(path.read_text()) | {"classes": ["red", "green", "violet"]}
    write_json(path, other)
    sums = run.folder / checkpoint.SUMS
    name = hashlib.sha256(path.read_bytes()).hexdigest()
    sums.write_text(re.sub(r"\w+(?=  problem.json)", name, sums.read_text()))
    with pytest.raises(ExportError, match=r"blue.*violet.*only runs of the same classes"):
        evaluate(EvaluateConfig((run.folder, trained.folder)))


def test_several_runs_are_one_table(
    trained: Run, run: Run, exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    file = tmp_path / "numbers.json"
    data = trained.config.data.data
    paths = (trained.folder, run.folder, exported)
    result = evaluate(EvaluateConfig(paths, data=data, json=file))
    assert json.loads(file.read_text()) == result
    assert [one["path"] for one in result["runs"]] == [str(path) for path in paths]
    # a run and its copy are one row, the bundle of it another
    rows = {(row["row"], row["mode"]): row for row in result["table"]}
    assert [row["runs"] for row in result["table"]] == [2, 2, 2, 1, 1, 1, 1]
    single = evaluate(EvaluateConfig((trained.folder,)))["modes"]["single"]
    assert rows["sla-sd, engine torch", "single"]["top1"] == {"mean": single["top1"], "sd": 0.0}
    assert rows["sla-sd, engine onnxruntime", "single"]["top1"]["sd"] is None
    assert "mean ± standard deviation" in capsys.readouterr().out
