import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from export import examples, provenance, verify
from export.bundle import export
from export.config import ExportConfig
from export.errors import ExportError, TargetError, VerificationError
from export.graphs import build_graph
from export.target import target
from serving import bundle as contract
from serving.predictor import Predictor
from tests.runs import tiny_run, write_npz
from training import checkpoint
from training.checkpoint import Run
from training.config import DataConfig, LossConfig
from training.errors import CheckpointError
from training.progress import Progress

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("convert_once")]


def test_bundle_holds_the_three_graphs_and_says_what_they_are(exported: Path, trained: Run):
    manifest = contract.read(exported).manifest
    assert set(manifest.modes) == {"distilled", "single", "aggregated"}
    assert {mode: value.forward_passes for mode, value in manifest.modes.items()} == {
        "distilled": 1,
        "single": 1,
        "aggregated": 4,
    }
    assert manifest.default_mode == "distilled"
    assert manifest.classes == ("red", "green", "blue")
    assert manifest.transformations == ("identity", "rotation-90", "rotation-180", "rotation-270")
    assert (manifest.image["height"], manifest.image["width"]) == (12, 12)
    assert manifest.provenance["seed"] == trained.config.seed
    assert manifest.provenance["versions"]["torch"]
    assert manifest.provenance["pretrained_weights"] is None


def test_manifest_says_how_well_the_graphs_agree_with_torch(exported: Path):
    manifest = contract.read(exported).manifest
    assert manifest.parity["images"] == 21
    assert manifest.parity["batches"] == [1, 2, 7]
    assert manifest.parity["max_abs_diff"] <= manifest.parity["tolerance"] == 1e-4
    assert manifest.parity["agreement"] >= 0.999
    assert all(mode.metrics["n"] == 21 for mode in manifest.modes.values())


def test_manifest_says_whose_weights_a_fine_tuned_run_began_with(trained: Run, tmp_path: Path):
    tuned = tiny_run(tmp_path, objective="baseline", weights=trained.folder)
    told = provenance.provenance(checkpoint.open_run(tuned.folder))
    assert told["pretrained_weights"]["source"] == "viewfold"
    assert told["pretrained_weights"]["data"] == "npz:colours.npz"
    assert told["config"]["weights"] == "run"
    assert str(trained.folder.parent) not in json.dumps(told)


def test_manifest_tells_no_paths(exported: Path, trained: Run):
    text = (exported / "manifest.json").read_text()
    assert str(trained.folder.parent) not in text


def test_baseline_exports_one_plain_graph(tmp_path: Path):
    run = tiny_run(tmp_path, objective="baseline")
    manifest = export(ExportConfig(run.folder, tmp_path / "bundle")).manifest
    assert list(manifest.modes) == ["plain"]
    assert manifest.modes["plain"].forward_passes == 1


@pytest.mark.parametrize(
    ("objective", "transformations", "passes"),
    [
        ("sla", "rotation*color3*flip", {"single": 1, "aggregated": 24}),
        ("da", "color6", {"plain": 1}),
        ("mt", "rotation2", {"plain": 1}),
    ],
)
def test_every_objective_and_transformation_exports(
    tmp_path: Path, objective: str, transformations: str, passes: dict[str, int]
):
    run = tiny_run(tmp_path, objective=objective, transformations=transformations)
    manifest = export(ExportConfig(run.folder, tmp_path / "bundle")).manifest
    assert {mode: value.forward_passes for mode, value in manifest.modes.items()} == passes
    assert manifest.parity["agreement"] == 1.0


@pytest.mark.parametrize("objective", ["sla-sd", "baseline"])
def test_cosine_heads_of_ldam_export(tmp_path: Path, objective: str):
    loss = LossConfig(ldam=0.5, class_weights="deferred")
    run = tiny_run(tmp_path, objective=objective, loss=loss)
    manifest = export(ExportConfig(run.folder, tmp_path / "bundle")).manifest
    assert manifest.parity["agreement"] == 1.0
    assert 0 < manifest.parity["max_abs_diff"] <= manifest.parity["tolerance"]


def test_timm_backbone_exports(tmp_path: Path):
    run = tiny_run(tmp_path, backbone="timm/test_resnet", side=32)
    assert export(ExportConfig(run.folder, tmp_path / "bundle")).manifest.parity["agreement"] == 1.0


def test_weights_are_stored_once_where_they_are_large(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("export.convert.SHARED_FROM_BYTES", 0)
    found = export(ExportConfig(run.folder, tmp_path / "bundle"))
    assert set(found.manifest.weights) == {"weights.bin"}
    Predictor(found, device="cpu").warm_up()


def test_validation_images_stand_in_for_data_that_is_not_at_hand(
    run: Run, tmp_path: Path, trained: Run
):
    moved = Path(trained.config.data.data.removeprefix("npz:"))
    hidden = moved.rename(moved.with_name("moved.npz"))
    try:
        manifest = export(ExportConfig(run.folder, tmp_path / "bundle")).manifest
    finally:
        hidden.rename(moved)
    assert manifest.parity["images"] == 12
    assert manifest.parity["on"] == "12 validation images of npz:colours.npz"  # and no path


@pytest.mark.parametrize("changed", ["classes", "count"])
def test_validation_images_stand_in_for_data_that_has_changed(
    changed: str, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    settings = DataConfig(data=f"npz:{write_npz(tmp_path / 'colours.npz')}", workers=1)
    arrays = dict(np.load(tmp_path / "colours.npz"))
    if changed == "classes":
        arrays["classes"] = arrays["classes"][::-1]
    else:
        arrays |= {name: arrays[name][:15] for name in ("test_images", "test_labels")}
    np.savez(tmp_path / "colours.npz", **arrays)
    moved = dataclasses.replace(run, config=dataclasses.replace(run.config, data=settings))
    found = examples.of_classifier(moved, None, Progress())
    assert found["validation"] is found["test"]
    assert found["test"].what == "12 validation images of npz:colours.npz"
    assert "when" in capsys.readouterr().out


def test_samples_travel_only_where_the_licence_lets_them(
    exported: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    assert contract.read(exported).manifest.samples == {}
    assert not (exported / "samples").exists()
    monkeypatch.setattr("training.data.may_be_passed_on", lambda name: True)
    export(ExportConfig(run.folder, tmp_path / "bundle"))
    found = contract.read(tmp_path / "bundle").manifest.samples
    assert set(found) == {"samples/red.png", "samples/green.png", "samples/blue.png"}
    assert all((tmp_path / "bundle" / name).is_file() for name in found)


def test_default_mode_can_be_chosen(run: Run, tmp_path: Path):
    config = ExportConfig(run.folder, tmp_path / "bundle", default_mode="aggregated", name="tulips")
    manifest = export(config).manifest
    assert (manifest.default_mode, manifest.name) == ("aggregated", "tulips")


def test_unknown_default_mode_lists_the_valid_ones(run: Run, tmp_path: Path):
    with pytest.raises(ExportError, match=r"unknown mode 'x'.*distilled.*single.*aggregated.*auto"):
        export(ExportConfig(run.folder, tmp_path / "bundle", default_mode="x"))


def test_all_failures_are_reported_together_and_nothing_is_left(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(verify, "TOLERANCE", -1.0)
    with pytest.raises(VerificationError) as caught:
        export(ExportConfig(run.folder, tmp_path / "out" / "bundle"))
    for mode in ("distilled", "single", "aggregated"):
        for batch in verify.BATCHES:
            assert f"{mode}.onnx: probabilities differs" in str(caught.value)
            assert f"batch {batch}" in str(caught.value)
    assert list((tmp_path / "out").iterdir()) == []


def test_disagreement_on_the_test_split_fails_the_export(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(verify, "AGREEMENT", 1.1)
    with pytest.raises(VerificationError, match=r"top-1 agrees with torch on 100\.00 %"):
        export(ExportConfig(run.folder, tmp_path / "out" / "bundle"))
    assert list((tmp_path / "out").iterdir()) == []


KILLED_AT = """
import os, signal, sys
from pathlib import Path
from export import bundle
from export.config import ExportConfig

def die(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)

bundle.contract.encode = die  # after everything has been written and verified, before the manifest
bundle.export(ExportConfig(Path(sys.argv[1]), Path(sys.argv[2])))
"""


def test_a_killed_export_leaves_nothing_that_looks_like_a_bundle(run: Run, tmp_path: Path):
    out = tmp_path / "out" / "bundle"
    command = [sys.executable, "-c", KILLED_AT, str(run.folder), str(out)]
    done = subprocess.run(command, capture_output=True, check=False, cwd=Path(__file__).parents[2])
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not out.exists()
    assert list((tmp_path / "out").rglob(contract.MANIFEST)) == []
    export(ExportConfig(run.folder, out))
    assert [path.name for path in out.parent.iterdir()] == ["bundle"]


def test_a_taken_place_is_refused_and_left_alone(run: Run, tmp_path: Path):
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "thesis.tex").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(TargetError, match="is there already"):
            export(ExportConfig(run.folder, tmp_path / "bundle", overwrite=overwrite))
    assert (tmp_path / "bundle" / "thesis.tex").read_text() == "years of work"


def test_overwrite_replaces_a_bundle(run: Run, exported: Path, tmp_path: Path):
    shutil.copytree(exported, tmp_path / "bundle")
    export(ExportConfig(run.folder, tmp_path / "bundle", overwrite=True, name="new"))
    assert contract.read(tmp_path / "bundle").manifest.name == "new"
    assert not (tmp_path / ".bundle.old").exists()


def test_overwrite_after_an_export_that_was_killed_at_its_end(exported: Path, tmp_path: Path):
    for name in ("bundle", ".bundle.old"):
        shutil.copytree(exported, tmp_path / name)
    settings = ExportConfig(tmp_path, tmp_path / "bundle", overwrite=True)
    with target(settings) as part:
        (part / "new").touch()
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]
    assert (tmp_path / "bundle" / "new").exists()


def test_a_failed_overwrite_keeps_the_old_bundle(
    run: Run, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    shutil.copytree(exported, tmp_path / "bundle")
    monkeypatch.setattr(verify, "AGREEMENT", 1.1)
    with pytest.raises(VerificationError):
        export(ExportConfig(run.folder, tmp_path / "bundle", overwrite=True, name="new"))
    assert contract.read(tmp_path / "bundle").manifest.name == "run"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_place_that_cannot_be_written_is_said(run: Run, tmp_path: Path):
    (tmp_path / "closed").mkdir(mode=0o500)
    with pytest.raises(TargetError, match="cannot write"):
        export(ExportConfig(run.folder, tmp_path / "closed" / "bundle"))


@pytest.mark.parametrize("name", ["best/weights.safetensors", "best/state.json", "problem.json"])
def test_a_run_with_a_flipped_byte_is_refused(run: Run, tmp_path: Path, name: str):
    path = run.folder / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="altered"):
        export(ExportConfig(run.folder, tmp_path / "bundle"))


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path):
    with pytest.raises(CheckpointError, match="is not a run"):
        export(ExportConfig(tmp_path, tmp_path / "bundle"))


def test_manifest_is_json_that_others_can_read(exported: Path):
    content = json.loads((exported / "manifest.json").read_text())
    assert content["format"] == contract.FORMAT
    assert content["modes"]["aggregated"]["outputs"][1]["shape"] == [None, 4, 3]


def test_serving_answers_as_torch_did(exported: Path, trained: Run):
    images, _ = checkpoint.read_validation_images(trained)
    served = Predictor(contract.read(exported), device="cpu").predict(images.numpy(), "aggregated")
    graph = build_graph(checkpoint.load_network(trained), "aggregated")
    assert abs(served - graph(images)[0].detach().numpy()).max() < 1e-5
