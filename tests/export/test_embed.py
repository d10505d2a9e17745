"""An encoder, from its run to a bundle that embeds."""

import dataclasses
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

from export import convert, examples, quantize, verify
from export.bundle import export
from export.config import EvaluateConfig, ExportConfig, Precision
from export.errors import ExportError, PrecisionError, VerificationError
from export.evaluate import run as evaluate
from serving import bundle as contract
from serving.manifest import Tensor
from serving.predictor import Predictor
from tests.training.pretraining import pretraining
from training import checkpoint
from training.checkpoint import Run
from training.config import DataConfig, ReportConfig
from training.encoder import Encoder
from training.errors import CheckpointError
from training.frozen import load_encoder
from training.pretrain import pretrain
from training.pretrain_config import PretrainConfig
from training.progress import Progress
from training.report import report

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def encoder_run(tmp_path_factory: pytest.TempPathFactory) -> Run[PretrainConfig]:
    """A pretrained encoder. Not to be changed: copy it first."""
    return pretrain(pretraining(tmp_path_factory.mktemp("encoder"), epochs=1))


@pytest.fixture(autouse=True, scope="module")
def _convert_once() -> Any:
    """Converting takes seconds: every encoder is converted once."""
    converted: dict[str, bytes] = {}
    convert_now = convert.to_onnx

    def convert_or_recall(graph: Any, shape: Any, facts: Any) -> onnx.ModelProto:
        key = f"{shape} {graph.state_dict()['mean'].flatten()}"
        if key not in converted:
            converted[key] = convert_now(graph, shape, facts).SerializeToString()
        return onnx.ModelProto.FromString(converted[key])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(convert, "to_onnx", convert_or_recall)
        yield


@pytest.fixture(scope="module")
def embedder(
    encoder_run: Run[PretrainConfig], tmp_path_factory: pytest.TempPathFactory, _convert_once: None
) -> Path:
    """The bundle of that encoder. Not to be changed."""
    out = tmp_path_factory.mktemp("embedder") / "bundle"
    export(ExportConfig(encoder_run.folder, out, name="colours"))
    return out


def test_bundle_has_one_mode_that_embeds(embedder: Path):
    manifest = contract.read(embedder).manifest
    assert (manifest.task, manifest.name, manifest.default_mode) == ("embed", "colours", "embed")
    assert (manifest.classes, manifest.transformations) == ((), ())
    (mode,) = manifest.modes.values()
    assert mode.inputs == (Tensor("images", "uint8", (None, 8, 8, 3)),)
    assert mode.outputs == (Tensor("embeddings", "float32", (None, 64)),)
    assert (mode.file, mode.forward_passes, manifest.dimensions) == ("embed.onnx", 1, 64)
    assert {path.name for path in embedder.iterdir()} == {"manifest.json", "embed.onnx"}


def test_manifest_says_what_was_verified_and_what_the_encoder_is_worth(
    embedder: Path, encoder_run: Run[PretrainConfig]
):
    manifest = contract.read(embedder).manifest
    assert manifest.parity["on"] == "4 validation images of npz:set.npz"
    assert (manifest.parity["images"], manifest.parity["batches"]) == (4, [1, 2, 7])
    assert 0 < manifest.parity["max_relative_diff"] <= manifest.parity["tolerance"] == 1e-4
    assert manifest.parity["least_cosine"] > 0.9999
    assert "agreement" not in manifest.parity
    assert manifest.modes["embed"].metrics == encoder_run.result()["val"]
    assert manifest.provenance["config"]["method"] == "simsiam"
    assert str(encoder_run.folder.parent) not in (embedder / "manifest.json").read_text()


def test_graph_alone_explains_itself(embedder: Path):
    model = onnx.load(embedder / "embed.onnx")
    facts = {entry.key: entry.value for entry in model.metadata_props}
    assert (facts["task"], facts["dimensions"], json.loads(facts["classes"])) == ("embed", "64", [])
    assert json.loads(facts["image"])["height"] == 8


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_embeddings_are_the_encoders_features(
    embedder: Path, encoder_run: Run[PretrainConfig], batch: int
):
    images = examples.real_images(encoder_run)[:batch]
    encoder, _ = load_encoder(encoder_run.folder)
    expected = encoder(torch.from_numpy(images)).detach().numpy()
    served = Predictor(contract.read(embedder), device="cpu").predict(images, "embed")
    assert (served.dtype, served.shape) == (np.float32, (batch, 64))
    np.testing.assert_allclose(served, expected, atol=1e-5 * abs(expected).max())


def test_kept_images_stand_in_for_data_that_is_not_at_hand(
    encoder_run: Run[PretrainConfig], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    gone = dataclasses.replace(encoder_run.config, data=DataConfig(data="npz:/nowhere/set.npz"))
    run = dataclasses.replace(encoder_run, config=gone)
    shown = examples.of_encoder(run, None, Progress())["validation"]
    assert shown.what == "4 validation images of npz:set.npz"
    assert "not at hand as it was" in capsys.readouterr().out


def test_held_out_images_are_those_that_were_not_learnt_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    for index in range(20):
        Image.new("RGB", (8, 8), (index, 0, 0)).save(tmp_path / f"{index:02}.png")
    data = DataConfig(data=f"folder:{tmp_path}", val_fraction=0.25, workers=1, image_size=8)
    run = pretrain(
        pretraining(tmp_path, data=data, unlabelled=True, epochs=1, out=tmp_path / "run")
    )
    shown = examples.of_encoder(run, None, Progress())["validation"]
    kept, _ = checkpoint.read_validation_images(run)
    assert (len(shown.split), run.problem.counts) == (5, (15, 5))
    assert torch.equal(shown.batches.images, kept)
    assert (
        "not at hand" not in capsys.readouterr().out
    )  # of the folder itself, not those that the run keeps


def test_encoder_of_a_classifiers_run_is_exported_on_request(trained: Run, tmp_path: Path):
    manifest = export(ExportConfig(trained.folder, tmp_path / "bundle", embed=True)).manifest
    assert (manifest.task, manifest.dimensions, manifest.classes) == ("embed", 64, ())
    assert manifest.parity["on"] == "12 validation images of npz:colours.npz"
    assert manifest.modes["embed"].metrics == {}
    images, _ = checkpoint.read_validation_images(trained)
    features = checkpoint.load_network(trained).features(images).detach().numpy()
    served = Predictor(contract.read(tmp_path / "bundle"), device="cpu").predict(
        images.numpy(), "embed"
    )
    np.testing.assert_allclose(served, features, atol=1e-5 * abs(features).max())


@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_lower_precision_says_how_far_embeddings_turn(
    encoder_run: Run[PretrainConfig], embedder: Path, tmp_path: Path, precision: Precision
):
    out = tmp_path / "bundle"
    manifest = export(ExportConfig(encoder_run.folder, out, precision=precision)).manifest
    assert manifest.modes["embed"].precision == precision
    assert manifest.modes["embed"].metrics == encoder_run.result()["val"]
    assert manifest.parity["max_relative_diff"] <= 1e-4  # of fp32, which was verified first
    found = manifest.precision
    assert (found["name"], found["min_cosine"]) == (precision, 0.99)
    assert found["on"] == "4 validation images of npz:set.npz"
    assert (
        found["calibration"]["on"]
        == f"{found['calibration']['images']} training images of npz:set.npz"
    )
    images, _ = checkpoint.read_validation_images(encoder_run)
    before, after = (
        Predictor(contract.read(folder), device="cpu").predict(images.numpy(), "embed")
        for folder in (embedder, out)
    )
    cosines = torch.cosine_similarity(torch.from_numpy(before), torch.from_numpy(after))
    assert found["least_cosine"] == pytest.approx(cosines.min().item(), abs=1e-5)
    assert found["mean_cosine"] == pytest.approx(cosines.mean().item(), abs=1e-5)
    assert 0.99 < found["least_cosine"] <= found["mean_cosine"] < 1.0000001
    assert (before != after).any()


def test_an_encoder_has_no_head_that_stays_in_fp32(embedder: Path):
    model = onnx.load(embedder / "embed.onnx")
    products = {node.name for node in model.graph.node if node.op_type in ("Conv", "Gemm")}
    assert len(products) > 5
    assert not products & set(quantize.kept_in_fp32(model))


def test_embeddings_that_turn_too_far_are_counted_and_nothing_is_exported(
    encoder_run: Run[PretrainConfig], tmp_path: Path
):
    settings = ExportConfig(
        encoder_run.folder, tmp_path / "out" / "bundle", precision="int8", min_cosine=1.0
    )
    with pytest.raises(
        PrecisionError,
        match=r"of [1-4] of 4 validation images .*--min-cosine 1: the least cosine is 0\.9",
    ):
        export(settings)
    assert list((tmp_path / "out").iterdir()) == []


def test_embeddings_that_are_no_numbers_in_lower_precision_are_refused(
    encoder_run: Run[PretrainConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def broken(model: onnx.ModelProto, feeds: Any) -> onnx.ModelProto:
        kernel = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
        values = np.full(len(kernel.raw_data) // 4, np.nan, np.float32)
        kernel.raw_data = values.tobytes()
        return model

    monkeypatch.setitem(quantize.LOWER, "fp16", broken)
    with pytest.raises(PrecisionError, match="of 4 of 4 validation images"):
        export(ExportConfig(encoder_run.folder, tmp_path / "b", precision="fp16", min_cosine=-1))


@pytest.mark.parametrize("cosine", [-1.1, 1.1, float("nan")])
def test_a_cosine_that_cannot_be_is_refused(
    encoder_run: Run[PretrainConfig], tmp_path: Path, cosine: float
):
    with pytest.raises(ExportError, match=r"--min-cosine .*; it is -1 to 1"):
        export(ExportConfig(encoder_run.folder, tmp_path / "bundle", min_cosine=cosine))


def test_unknown_default_mode_is_refused(encoder_run: Run[PretrainConfig], tmp_path: Path):
    with pytest.raises(ExportError, match=r"unknown mode 'plain'; an encoder has \['embed'\]"):
        export(ExportConfig(encoder_run.folder, tmp_path / "bundle", default_mode="plain"))
    assert list(tmp_path.iterdir()) == []


def test_altered_encoder_is_refused(encoder_run: Run[PretrainConfig], tmp_path: Path):
    folder = Path(shutil.copytree(encoder_run.folder, tmp_path / "run"))
    path = folder / "best" / "weights.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="altered"):
        export(ExportConfig(folder, tmp_path / "bundle"))
    assert not (tmp_path / "bundle").exists()


def test_graph_that_says_something_else_fails_the_export_and_leaves_nothing(
    encoder_run: Run[PretrainConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    original = convert.to_onnx

    def other(graph: Encoder, shape: Any, facts: Any) -> onnx.ModelProto:
        model = original(graph, shape, facts)
        kernel = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
        values = np.frombuffer(kernel.raw_data, np.float32) * np.float32(1.01)
        kernel.raw_data = values.tobytes()
        return model

    monkeypatch.setattr(convert, "to_onnx", other)
    with pytest.raises(VerificationError) as caught:
        export(ExportConfig(encoder_run.folder, tmp_path / "out" / "bundle"))
    for batch in verify.BATCHES:
        assert "embed.onnx: embeddings differs from torch by up to" in str(caught.value)
        assert f"of the largest value at batch {batch}, tolerance" in str(caught.value)
    assert list((tmp_path / "out").iterdir()) == []


def test_every_held_out_image_is_compared(
    encoder_run: Run[PretrainConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    answer = Predictor.predict

    def one_wrong(self: Predictor, images: Any, mode: str) -> Any:
        found = answer(self, images, mode)
        if len(images) > 1:
            found[-1] = found[-1][::-1]
        return found

    monkeypatch.setattr(Predictor, "predict", one_wrong)
    with pytest.raises(VerificationError, match=r"(?s)on 4 validation images.*has the cosine 0\."):
        export(ExportConfig(encoder_run.folder, tmp_path / "out" / "bundle"))
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_tolerance_is_a_share_of_the_largest_value(scale: float):
    expected = torch.arange(1, 13).view(3, 4) * scale
    for share, failures in ((5e-5, 0), (2e-4, 1)):
        findings = verify.Findings()
        served = expected.numpy().copy()
        served[1, 2] += share * 12 * scale
        verify.check_embeddings("embed", served, expected, findings, what="3 images")
        assert len(findings.failures) == failures
        assert findings.max_relative_diff == pytest.approx(share, rel=1e-2)
        assert findings.max_unscaled_diff == pytest.approx(share * 12 * scale, rel=1e-2)


def test_embeddings_of_nothing_but_zeros_agree_only_with_zeros():
    findings = verify.Findings()
    zeros = np.zeros((2, 3), np.float32)
    verify.check_embeddings("embed", zeros, torch.zeros(2, 3), findings, what="2 images")
    assert (findings.failures, findings.least_cosine) == ([], 1.0)
    verify.check_embeddings("embed", zeros + 1, torch.zeros(2, 3), findings, what="2 images")
    assert len(findings.failures) == 2


def test_a_small_embedding_beside_a_large_one_is_compared_by_its_direction():
    expected = torch.tensor([[1000.0, 0.0], [0.01, 0.0]])
    served = np.array([[1000.0, 0.0], [0.0, 0.01]], np.float32)
    findings = verify.Findings()
    verify.check_embeddings("embed", served, expected, findings, what="2 images")
    assert [("cosine 0.000000" in failure) for failure in findings.failures] == [True]


def test_embeddings_that_are_not_numbers_are_failures():
    broken = np.full((2, 3), np.nan, np.float32)
    for served, expected in ((broken, np.ones_like(broken)), (broken, broken)):
        findings = verify.Findings()
        verify.check_embeddings(
            "embed", served, torch.from_numpy(expected), findings, what="2 images"
        )
        assert findings.failures


def test_a_collapsed_encoder_is_said(
    encoder_run: Run[PretrainConfig],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.setattr("training.collapse.LEAST_STD", 2.0)
    export(ExportConfig(encoder_run.folder, tmp_path / "bundle"))
    assert "this encoder has collapsed" in capsys.readouterr().out


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


def test_a_killed_export_leaves_nothing_that_looks_like_a_bundle(
    encoder_run: Run[PretrainConfig], tmp_path: Path
):
    out = tmp_path / "out" / "bundle"
    command = [sys.executable, "-c", KILLED_AT, str(encoder_run.folder), str(out)]
    done = subprocess.run(command, capture_output=True, check=False, cwd=Path(__file__).parents[2])
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not out.exists()
    assert list((tmp_path / "out").rglob(contract.MANIFEST)) == []
    export(ExportConfig(encoder_run.folder, out))
    assert [path.name for path in out.parent.iterdir()] == ["bundle"]


@pytest.mark.parametrize("backbone", ["timm/test_resnet", "timm/test_vit"])
def test_timm_encoders_export(tmp_path: Path, backbone: str):
    config = pretraining(tmp_path, backbone=backbone, epochs=1)
    data = dataclasses.replace(config.data, image_size=32)
    run = pretrain(dataclasses.replace(config, data=data))
    manifest = export(ExportConfig(run.folder, tmp_path / "bundle")).manifest
    assert 0 < manifest.parity["max_relative_diff"] <= 1e-4


def test_what_judges_classifiers_refuses_encoders_in_a_sentence(
    encoder_run: Run[PretrainConfig], embedder: Path
):
    with pytest.raises(ExportError, match="answers with embeddings, which are neither right"):
        evaluate(EvaluateConfig((embedder,)))
    with pytest.raises(CheckpointError, match="no classifier yet"):
        evaluate(EvaluateConfig((encoder_run.folder,)))
    with pytest.raises(CheckpointError, match="no classifier yet"):
        report(ReportConfig(encoder_run.folder))
