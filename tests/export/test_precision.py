"""`viewfold export --precision`: from a run to a bundle in lower precision, or to none."""

import functools
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, numpy_helper

from export import quantize
from export.bundle import export
from export.config import ExportConfig, Precision
from export.errors import ExportError, PrecisionError
from export.quantize import Feeds
from serving import bundle as contract
from serving.manifest import Manifest
from serving.predictor import Predictor
from tests.runs import tiny_run
from training.checkpoint import Run

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("convert_once")]


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return tiny_run(tmp_path_factory.mktemp("colours"), val_images=60)


def lowered(run: Run, out: Path, precision: Precision, max_drop: float = 100) -> Manifest:
    return export(ExportConfig(run.folder, out, precision=precision, max_drop=max_drop)).manifest


HEADS = ("network.class_head", "network.joint_head", "identity", "val_")


def upside_down(
    model: ModelProto, feeds: Iterable[Feeds], heads: tuple[str, ...] = HEADS
) -> ModelProto:
    """As a quantisation that went wrong: heads say the opposite."""
    for tensor in model.graph.initializer:
        if tensor.name.startswith(heads):
            values = numpy_helper.to_array(tensor)
            if values.dtype == np.float32 and values.ndim > 0:
                tensor.CopyFrom(numpy_helper.from_array(-values, tensor.name))
    return model


@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_manifest_says_what_the_precision_cost(colours: Run, tmp_path: Path, precision: Precision):
    manifest = lowered(colours, tmp_path / "bundle", precision)
    assert {graph.precision for graph in manifest.graphs.values()} == {precision}
    assert manifest.parity["max_abs_diff"] <= 1e-4  # of fp32, which was verified first
    found = manifest.precision
    assert found["name"] == precision
    assert found["calibration"] == {"on": "48 training images of npz:colours.npz", "images": 48}
    assert found["max_drop"] == 100
    assert set(found["drop"]) == {"distilled", "single", "aggregated", "auto"}
    assert all(set(drop) == {"val", "test"} for drop in found["drop"].values())
    assert 0.5 < found["agreement"] <= 1
    assert 0 < found["max_abs_diff"] < 0.5


def test_drop_and_metrics_are_of_what_is_served(colours: Run, tmp_path: Path):
    before = export(ExportConfig(colours.folder, tmp_path / "fp32")).manifest
    after = lowered(colours, tmp_path / "int8", "int8")
    assert before.precision == {}
    arrays = np.load(colours.config.data.data.removeprefix("npz:"))
    predictor = Predictor(contract.read(tmp_path / "int8"), device="cpu", threads=1)
    for mode, value in after.modes.items():
        answers = predictor.predict(arrays["test_images"], mode)
        right = float((answers.argmax(1) == arrays["test_labels"]).mean())
        assert value.metrics["top1"] == pytest.approx(right)
        lost = 100 * (before.modes[mode].metrics["top1"] - right)
        assert after.precision["drop"][mode]["test"] == pytest.approx(lost)


def test_threshold_is_chosen_by_the_lowered_graphs(
    colours: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    fp32 = export(ExportConfig(colours.folder, tmp_path / "fp32")).manifest
    spoilt = functools.partial(upside_down, heads=("network.class_head",))
    monkeypatch.setitem(quantize.LOWER, "int8", spoilt)  # one pass is wrong now, all copies are not
    manifest = lowered(colours, tmp_path / "bundle", "int8")
    assert manifest.auto is not None
    assert fp32.auto is not None
    assert manifest.auto.threshold > fp32.auto.threshold
    assert manifest.auto.escalation_rate > 0.5
    assert manifest.auto.metrics["forward_passes"] > 2
    drop = manifest.precision["drop"]
    assert drop["distilled"]["val"] > 20
    assert drop["auto"]["val"] < 5


def test_a_mode_that_loses_too_much_is_named_and_nothing_is_exported(
    colours: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(quantize.LOWER, "int8", upside_down)
    with pytest.raises(PrecisionError) as caught:
        lowered(colours, tmp_path / "out" / "bundle", "int8", max_drop=0.5)
    said = str(caught.value)
    assert "int8 loses more than --max-drop 0.5 points of top-1 on 60 validation images" in said
    for mode in ("distilled", "single", "aggregated", "auto"):
        assert f"{mode} " in said
    assert list((tmp_path / "out").iterdir()) == []


def test_what_may_be_lost_is_the_users_choice(
    colours: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(quantize.LOWER, "int8", upside_down)
    manifest = lowered(colours, tmp_path / "bundle", "int8", max_drop=100)
    assert max(drop["test"] for drop in manifest.precision["drop"].values()) > 20


def test_kept_images_stand_in_for_training_images_that_are_not_at_hand(
    colours: Run, tmp_path: Path
):
    path = Path(colours.config.data.data.removeprefix("npz:"))
    hidden = path.rename(path.with_name("moved.npz"))
    try:
        manifest = lowered(colours, tmp_path / "bundle", "int8")
    finally:
        hidden.rename(path)
    assert manifest.precision["calibration"] == {
        "on": "60 validation images of npz:colours.npz",
        "images": 60,
    }


def test_shared_weights_are_replaced_by_the_lowered_ones(
    colours: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("export.convert.SHARED_FROM_BYTES", 0)
    export(ExportConfig(colours.folder, tmp_path / "fp32"))
    manifest = lowered(colours, tmp_path / "int8", "int8")
    assert set(manifest.weights) == {"weights.bin"}
    sizes = [(tmp_path / name / "weights.bin").stat().st_size for name in ("fp32", "int8")]
    assert sizes[1] < 0.5 * sizes[0]
    Predictor(contract.read(tmp_path / "int8"), device="cpu").warm_up()
    monkeypatch.setattr("export.convert.SHARED_FROM_BYTES", sizes[1] + 1)
    assert lowered(colours, tmp_path / "apart", "int8").weights == {}
    assert not (tmp_path / "apart" / "weights.bin").exists()


@pytest.mark.parametrize("max_drop", [-0.1, float("nan"), float("inf")])
def test_a_limit_that_cannot_be_is_refused(colours: Run, tmp_path: Path, max_drop: float):
    with pytest.raises(ExportError, match=r"--max-drop .* points; it is 0 to 100"):
        lowered(colours, tmp_path / "bundle", "int8", max_drop=max_drop)


def test_a_classifiers_encoder_is_lowered_too(colours: Run, tmp_path: Path):
    settings = ExportConfig(colours.folder, tmp_path / "bundle", precision="int8", embed=True)
    found = export(settings).manifest.precision
    assert found["calibration"] == {"on": "48 training images of npz:colours.npz", "images": 48}
    assert found["on"] == "60 validation images of npz:colours.npz"
    assert 0.99 < found["least_cosine"] < 1


def test_graph_says_its_precision(exported: Path):
    facts = {p.key: p.value for p in onnx.load(exported / "distilled.onnx").metadata_props}
    assert facts["precision"] == "fp32"
