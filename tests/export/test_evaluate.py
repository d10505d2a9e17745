import json
from pathlib import Path

import pytest

from export.config import EvaluateConfig
from export.errors import ExportError
from export.evaluate import run as evaluate
from tests.runs import write_npz
from training.checkpoint import Run


def test_a_bundle_is_worth_what_its_run_is_worth(exported: Path, trained: Run):
    of_run = evaluate(EvaluateConfig(trained.folder))
    of_bundle = evaluate(EvaluateConfig(exported, data=trained.config.data.data))
    assert (of_run["engine"], of_bundle["engine"]) == ("torch", "onnxruntime")
    for mode, values in of_run["modes"].items():
        for key in ("top1", "nll", "ece", "forward_passes", "n"):
            assert of_bundle["modes"][mode][key] == pytest.approx(values[key], abs=1e-5)


def test_evaluation_of_a_run_repeats_what_training_wrote_down(trained: Run):
    again = evaluate(EvaluateConfig(trained.folder))
    for mode, values in trained.result()["test"].items():
        assert again["modes"][mode] == pytest.approx(values, abs=1e-6)


def test_a_bundle_of_files_asks_where_they_are(exported: Path):
    with pytest.raises(ExportError, match=r"npz:colours.npz\); give --data"):
        evaluate(EvaluateConfig(exported))


def test_other_splits_and_data_can_be_asked_for(trained: Run, tmp_path: Path):
    assert evaluate(EvaluateConfig(trained.folder, split="val"))["modes"]["single"]["n"] == 12
    other = write_npz(tmp_path / "other.npz", side=20)  # of another size: resized as everywhere
    result = evaluate(EvaluateConfig(trained.folder, data=f"npz:{other}"))
    assert result["modes"]["single"]["n"] == 21


def test_numbers_are_written_as_json(trained: Run, tmp_path: Path):
    result = evaluate(EvaluateConfig(trained.folder, json=tmp_path / "numbers.json"))
    assert json.loads((tmp_path / "numbers.json").read_text()) == result


def test_folder_for_the_json_that_is_not_there_is_said_first(trained: Run, tmp_path: Path):
    with pytest.raises(ExportError, match="there is no folder"):
        evaluate(EvaluateConfig(trained.folder, json=tmp_path / "nowhere" / "numbers.json"))


def test_unknown_split_lists_the_valid_ones(trained: Run):
    with pytest.raises(ExportError, match=r"unknown split 'x'; choose from .*train.*val.*test"):
        evaluate(EvaluateConfig(trained.folder, split="x"))


def test_data_of_other_classes_is_refused(trained: Run):
    with pytest.raises(ExportError, match="has the classes"):
        evaluate(EvaluateConfig(trained.folder, data="digits"))
