"""A run that was folded from another: its bundle answers in one pass and, by its teacher, in all of them."""

import dataclasses
import shutil
from pathlib import Path

import pytest

from export.bundle import export
from export.config import EvaluateConfig, ExportConfig
from export.evaluate import run as evaluate
from serving import bundle as contract
from serving.predictor import Predictor
from tests.runs import tiny_run
from training import checkpoint
from training.checkpoint import Run
from training.classify import train
from training.evaluate import MODES

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return tiny_run(tmp_path_factory.mktemp("teacher"), objective="sla", transformations="color3")


@pytest.fixture(scope="module")
def folded(teacher: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    changed = dataclasses.replace(
        teacher.config,
        objective="distill",
        transformations="rotation",  # which one pass does not look at
        teacher=str(teacher.folder),
        out=tmp_path_factory.mktemp("folded") / "run",
    )
    return train(changed)


@pytest.fixture(scope="module")
def bundle(folded: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bundles") / "folded"
    export(ExportConfig(folded.folder, out))
    return out


def test_folded_bundle_answers_in_one_pass_unless_asked_for_all(bundle: Path):
    manifest = contract.read(bundle).manifest
    assert manifest.default_mode == "distilled"
    counts = {mode: value.forward_passes for mode, value in manifest.modes.items()}
    assert counts == {"distilled": 1, "aggregated": 3}
    assert manifest.transformations == ("identity", "color-gbr", "color-brg")
    assert manifest.provenance["config"]["teacher"] == "run"


def test_auto_runs_all_of_the_teachers_copies_where_the_pass_is_in_doubt(bundle: Path):
    auto = contract.read(bundle).manifest.auto
    assert auto is not None
    assert (auto.first, auto.rest) == ("distilled", None)
    assert auto.metrics["forward_passes"] == 1 + 3 * auto.metrics["escalation_rate"]
    assert not (bundle / "auto_rest.onnx").exists()


def test_each_graph_says_what_its_own_network_says(bundle: Path, folded: Run, teacher: Run):
    images, _ = checkpoint.read_validation_images(folded)
    predictor = Predictor(contract.read(bundle), device="cpu")
    for mode, run in (("distilled", folded), ("aggregated", teacher)):
        network = checkpoint.load_network(run)
        expected = MODES[mode].logits(network(images)).softmax(1).detach().numpy()
        assert abs(predictor.predict(images.numpy(), mode) - expected).max() < 1e-5


def test_printed_answers_of_the_teacher_are_marked(
    bundle: Path, folded: Run, teacher: Run, capsys: pytest.CaptureFixture[str]
):
    data = folded.config.data.data
    for paths in ((folded.folder,), (bundle,), (folded.folder, bundle)):
        evaluate(EvaluateConfig(paths, data=data, per_class=len(paths) == 1))
        printed = capsys.readouterr().out
        assert printed.count("aggregated (teacher)") == 2  # in both tables, or in both rows
        assert printed.count("aggregated") == 2
    evaluate(EvaluateConfig((teacher.folder,)))
    assert "(teacher)" not in capsys.readouterr().out


def test_rows_know_a_teacher_by_its_settings(bundle: Path, folded: Run):
    paths = (folded.folder, bundle)
    table = evaluate(EvaluateConfig(paths, data=folded.config.data.data))["table"]
    assert [(row["row"], row["mode"]) for row in table] == [
        ("distill, engine torch", "distilled"),
        ("distill, engine torch", "aggregated"),
        ("distill, engine onnxruntime", "distilled"),
        ("distill, engine onnxruntime", "aggregated"),
        ("distill, engine onnxruntime", "auto"),
    ]


def test_bundle_tells_the_settings_of_its_teacher_and_no_path(bundle: Path, folded: Run):
    told = contract.read(bundle).manifest.provenance["learnt_from"]
    expected = {"teacher": "sla", "teacher.transformations": "color3", "teacher.checkpoint": "best"}
    assert expected.items() <= told.items()
    assert not any(str(folded.folder.parent.parent) in value for value in told.values())


def test_bundle_from_before_has_its_teachers_name(bundle: Path, folded: Run, tmp_path: Path):
    old = tmp_path / "old"
    shutil.copytree(bundle, old)
    manifest = contract.read(bundle).manifest
    del manifest.provenance["learnt_from"]
    (old / contract.MANIFEST).write_text(contract.encode(manifest))
    table = evaluate(EvaluateConfig((bundle, old), data=folded.config.data.data))["table"]
    assert {row["row"] for row in table} == {"distill, teacher sla", "distill, teacher run"}


def test_folded_run_and_its_bundle_are_worth_the_same(bundle: Path, folded: Run, teacher: Run):
    of_run = evaluate(EvaluateConfig((folded.folder,)))["modes"]
    of_bundle = evaluate(EvaluateConfig((bundle,), data=folded.config.data.data))["modes"]
    assert list(of_run) == ["distilled", "aggregated"]
    assert list(of_bundle) == [*of_run, "auto"]
    for mode, values in of_run.items():
        assert of_bundle[mode]["nll"] == pytest.approx(values["nll"], abs=1e-5)
        assert of_bundle[mode]["forward_passes"] == values["forward_passes"]
    own = teacher.result()["test"]["aggregated"]["nll"]
    assert of_run["aggregated"]["nll"] == pytest.approx(own, abs=1e-6)
