"""The mode `auto` and the temperatures, from a run to what its bundle serves."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch

from export import calibrate
from export.bundle import export
from export.config import ExportConfig
from export.errors import ExportError
from serving import bundle as contract
from serving.manifest import Manifest
from serving.predictor import Predictor
from tests.runs import tiny_run
from training import checkpoint
from training.answering import load_answering
from training.batches import ResidentBatches
from training.checkpoint import Run
from training.evaluate import class_logits
from training.probe import probe
from training.probe_config import ProbeConfig

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("convert_once")]

VALIDATION = 60  # images, enough to calibrate on


def relabel(run: Run, split: str, labels: np.ndarray) -> None:
    """Give the first images of a split other labels, in the data that the run was trained on."""
    path = run.config.data.data.removeprefix("npz:")
    arrays = dict(np.load(path))
    arrays[f"{split}_labels"][: len(labels)] = labels
    np.savez(path, **arrays)


@pytest.fixture(scope="module")
def doubtful(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that is wrong about a fifth of the images that it is calibrated on."""
    run = tiny_run(tmp_path_factory.mktemp("doubtful"), val_images=VALIDATION)
    relabel(run, "val", np.zeros(VALIDATION // 3, dtype=np.int64))
    return run


@pytest.fixture
def bundle(doubtful: Run, tmp_path: Path) -> Path:
    return export(ExportConfig(doubtful.folder, tmp_path / "bundle")).folder


def temperatures(manifest: Manifest) -> dict[str, float]:
    return {name: mode.temperature for name, mode in manifest.modes.items()}


def with_threshold(folder: Path, threshold: float) -> Predictor:
    """The bundle's predictor, were its threshold another."""
    manifest = contract.read(folder).manifest
    assert manifest.auto is not None
    auto = dataclasses.replace(manifest.auto, threshold=threshold)
    text = contract.encode(dataclasses.replace(manifest, auto=auto))
    (folder / contract.MANIFEST).write_text(text, encoding="utf-8")
    return Predictor(contract.read(folder), device="cpu", threads=1)


def test_every_modes_temperature_fits_the_validation_images(doubtful: Run, bundle: Path):
    arrays = np.load(doubtful.config.data.data.removeprefix("npz:"))
    images, labels = (torch.from_numpy(arrays[f"val_{part}"]) for part in ("images", "labels"))
    logits, _ = class_logits(
        load_answering(doubtful), ResidentBatches(images, labels), batch_size=VALIDATION
    )
    manifest = contract.read(bundle).manifest
    found = temperatures(manifest)
    for mode, values in logits.items():
        assert found[mode] == pytest.approx(calibrate.fit_temperature(values, labels), rel=1e-3)
        assert found[mode] != 1
    assert manifest.calibration == {
        "on": "60 validation images of npz:colours.npz",
        "images": 60,
        "temperatures": True,
    }


def test_temperature_is_in_the_graph_and_in_what_it_says_of_itself(doubtful: Run, bundle: Path):
    manifest = contract.read(bundle).manifest
    images, _ = checkpoint.read_validation_images(doubtful)
    logits, _ = class_logits(
        load_answering(doubtful), ResidentBatches(images, images[:, 0, 0, 0]), batch_size=60
    )
    predictor = Predictor(contract.read(bundle), device="cpu", threads=1)
    for mode, temperature in temperatures(manifest).items():
        expected = (logits[mode] / temperature).softmax(1).numpy()
        assert abs(predictor.predict(images.numpy(), mode) - expected).max() < 1e-5
    for name, graph in manifest.graphs.items():
        session = ort.InferenceSession(bundle / graph.file, providers=["CPUExecutionProvider"])
        facts = session.get_modelmeta().custom_metadata_map
        assert facts["mode"] == name
        assert json.loads(facts["temperature"]) == graph.temperature
        assert json.loads(facts["forward_passes"]) == graph.forward_passes
        assert json.loads(facts["classes"]) == ["red", "green", "blue"]


def test_the_test_split_decides_nothing(doubtful: Run, bundle: Path, tmp_path: Path):
    copied = tmp_path / "copied"
    shutil.copytree(doubtful.folder.parent, copied)
    settings = dataclasses.replace(doubtful.config.data, data=f"npz:{copied / 'colours.npz'}")
    moved = dataclasses.replace(
        doubtful, config=dataclasses.replace(doubtful.config, data=settings)
    )
    relabel(moved, "test", np.random.default_rng(0).integers(0, 3, 21))
    path = Path(doubtful.config.data.data.removeprefix("npz:"))
    kept = path.read_bytes()
    path.write_bytes((copied / "colours.npz").read_bytes())
    try:
        garbled = export(ExportConfig(doubtful.folder, tmp_path / "garbled")).manifest
    finally:
        path.write_bytes(kept)
    manifest = contract.read(bundle).manifest
    assert garbled.auto is not None
    assert manifest.auto is not None
    assert garbled.modes["distilled"].metrics != manifest.modes["distilled"].metrics
    assert temperatures(garbled) == temperatures(manifest)
    assert garbled.auto.threshold == manifest.auto.threshold
    assert garbled.auto.forward_passes == manifest.auto.forward_passes


def test_few_images_leave_temperatures_as_they_are(exported: Path):
    manifest = contract.read(exported).manifest
    assert set(temperatures(manifest).values()) == {1.0}
    assert (manifest.calibration["images"], manifest.calibration["temperatures"]) == (12, False)


def test_a_probe_has_learnt_from_its_validation_images(doubtful: Run, tmp_path: Path):
    data = dataclasses.replace(doubtful.config.data)
    run = probe(ProbeConfig(doubtful.folder, data, out=tmp_path / "probe"))
    manifest = export(ExportConfig(run.folder, tmp_path / "bundle")).manifest
    assert temperatures(manifest) == {"plain": 1.0}
    assert (manifest.calibration["images"], manifest.calibration["temperatures"]) == (60, False)


def test_kept_images_stand_in_for_a_validation_split_that_is_not_at_hand(
    doubtful: Run, bundle: Path, tmp_path: Path
):
    path = Path(doubtful.config.data.data.removeprefix("npz:"))
    hidden = path.rename(path.with_name("moved.npz"))
    try:
        manifest = export(ExportConfig(doubtful.folder, tmp_path / "moved")).manifest
    finally:
        hidden.rename(path)
    # the labels that the run kept are those from before they were changed
    assert temperatures(manifest) != temperatures(contract.read(bundle).manifest)
    assert manifest.calibration["on"] == "60 validation images of npz:colours.npz"
    assert manifest.auto is not None
    assert manifest.auto.calibration["on"] == manifest.calibration["on"]


def test_manifest_says_what_auto_costs_and_is_worth(bundle: Path):
    auto = contract.read(bundle).manifest.auto
    assert auto is not None
    assert auto.rest is not None
    assert (auto.first, auto.rest.file, auto.rest.forward_passes) == (
        "distilled",
        "auto_rest.onnx",
        3,
    )
    assert auto.calibration == {"on": "60 validation images of npz:colours.npz", "images": 60}
    assert auto.forward_passes == pytest.approx(1 + 3 * auto.escalation_rate)
    measured = auto.metrics
    assert measured["n"] == 21
    assert {"top1", "nll", "ece"} < measured.keys()
    assert measured["forward_passes"] == pytest.approx(1 + 3 * measured["escalation_rate"])


def test_an_image_in_doubt_gets_what_all_copies_say(doubtful: Run, bundle: Path):
    images = checkpoint.read_validation_images(doubtful)[0].numpy()
    first = Predictor(contract.read(bundle), device="cpu", threads=1).predict(images, "distilled")
    threshold = float(np.median(first.max(1)))
    predictor = with_threshold(bundle, threshold)
    found, doubt = predictor.answer(images, "auto"), first.max(1) <= threshold
    assert 20 < doubt.sum() < 40
    expected = np.where(doubt[:, None], predictor.predict(images, "aggregated"), first)
    np.testing.assert_allclose(found.values, expected, atol=1e-6)
    assert found.passes.tolist() == np.where(doubt, 4, 1).tolist()


def test_rest_says_what_every_copy_votes(doubtful: Run, bundle: Path):
    images = checkpoint.read_validation_images(doubtful)[0][:5].numpy()
    predictor = Predictor(contract.read(bundle), device="cpu", threads=1)
    outputs = ["probabilities", "per_transformation", "copies"]
    _, identity = predictor.run(
        "distilled", {"images": images}, ["probabilities", "identity_logits"]
    )
    feeds = {"images": images, "identity_logits": identity}
    found = predictor.run("auto_rest", feeds, outputs)
    expected = predictor.run("aggregated", {"images": images}, outputs)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_auto_can_be_the_default(doubtful: Run, tmp_path: Path):
    settings = ExportConfig(doubtful.folder, tmp_path / "bundle", default_mode="auto")
    assert export(settings).manifest.default_mode == "auto"


def test_a_run_of_one_pass_has_no_auto(tmp_path: Path):
    run = tiny_run(tmp_path, objective="baseline")
    with pytest.raises(ExportError, match=r"unknown mode 'auto'; this run has \['plain'\]"):
        export(ExportConfig(run.folder, tmp_path / "bundle", default_mode="auto"))
    manifest = export(ExportConfig(run.folder, tmp_path / "bundle")).manifest
    assert (manifest.auto, manifest.mode_names) == (None, ("plain",))


def test_sla_begins_with_its_single_pass(tmp_path: Path):
    run = tiny_run(tmp_path, objective="sla", transformations="color3")
    auto = export(ExportConfig(run.folder, tmp_path / "bundle")).manifest.auto
    assert auto is not None
    assert auto.rest is not None
    assert (auto.first, auto.rest.forward_passes) == ("single", 2)
