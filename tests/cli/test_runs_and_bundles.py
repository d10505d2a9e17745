import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from serving import bundle
from tests.bundles import write_bundle, write_embedder
from tests.cli import Command
from tests.folders import many
from tests.runs import tiny_run


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_run(tmp_path_factory.mktemp("cli")).folder


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def photos_and_notes(folder: Path) -> Path:
    """A folder of four pictures and a file that only looks like one."""
    photos = many(folder / "photos", 4)
    (photos / "notes.jpg").write_text("no picture")
    return photos


@pytest.mark.parametrize("verb", ["evaluate", "export"])
def test_checkpoint_with_a_flipped_byte(
    refused: Command, run_folder: Path, tmp_path: Path, verb: str
):
    shutil.copytree(run_folder, tmp_path / "run")
    flip_a_byte(tmp_path / "run" / "best" / "weights.safetensors")
    extra = [tmp_path / "bundle"] if verb == "export" else []
    assert "was altered" in refused(verb, tmp_path / "run", *extra)


def test_a_run_folder_in_use_is_not_overwritten(refused: Command, run_folder: Path):
    before = (run_folder / "metrics.csv").read_text()
    assert f"--resume {run_folder}" in refused("train", "--out", run_folder)
    assert (run_folder / "metrics.csv").read_text() == before


def test_evaluate_says_what_it_cannot_measure(refused: Command, run_folder: Path, tmp_path: Path):
    assert "takes a run folder or a bundle" in refused("evaluate")
    assert "does not exist" in refused("evaluate", run_folder, tmp_path / "nowhere")
    assert "is not a run: it has no config.json" in refused("evaluate", tmp_path)
    assert "is given twice" in refused("evaluate", run_folder, run_folder)


def test_report_says_what_it_cannot_show(refused: Command, run_folder: Path, tmp_path: Path):
    assert "is not a run: it has no config.json" in refused("report", tmp_path)
    out = tmp_path / "nowhere" / "page.html"
    assert "there is no folder" in refused("report", run_folder, "--out", out)
    assert "is a folder; give the name of a file" in refused(
        "report", run_folder, "--out", tmp_path
    )
    assert "must be at least 0" in refused("report", run_folder, "--mistakes", "-1")
    assert "--split" in refused("report", run_folder, "--split", "train")


@pytest.mark.parametrize("verb", ["evaluate", "serve"])
@pytest.mark.parametrize("name", ["distilled.onnx", "manifest.json"])
def test_bundle_with_a_flipped_byte(refused: Command, tmp_path: Path, verb: str, name: str):
    write_bundle(tmp_path / "bundle")
    flip_a_byte(tmp_path / "bundle" / name)
    assert "export the bundle again" in refused(verb, tmp_path / "bundle")


def test_bundle_of_a_newer_format(refused: Command, tmp_path: Path):
    write_bundle(tmp_path / "bundle")
    path = tmp_path / "bundle" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": bundle.FORMAT + 1}))
    assert "install a newer viewfold" in refused("serve", tmp_path / "bundle")


def test_unknown_mode_is_answered_with_those_of_the_bundle(refused: Command, tmp_path: Path):
    write_bundle(tmp_path / "bundle")
    said = refused("serve", tmp_path / "bundle", "--mode", "best")
    assert "unknown mode 'best'; this bundle has ['aggregated', 'distilled', 'single']" in said


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("verb", ["train", "serve", "evaluate run", "evaluate bundle"])
def test_cuda_where_there_is_none_is_an_error(
    refused: Command, run_folder: Path, tmp_path: Path, verb: str
):
    write_bundle(tmp_path / "bundle")
    said = {
        "train": lambda: refused("train", "--device", "cuda", "--out", tmp_path / "run"),
        "serve": lambda: refused("serve", tmp_path / "bundle", "--device", "cuda"),
        "evaluate run": lambda: refused("evaluate", run_folder, "--device", "cuda"),
        "evaluate bundle": lambda: refused("evaluate", tmp_path / "bundle", "--device", "cuda"),
    }[verb]()
    assert re.search("cuda|CUDA", said)


def test_embed_leaves_unreadable_files_out_and_ends_with_code_2_unless_told_otherwise(
    refused: Command, carried_out: Command, tmp_path: Path
):
    out = tmp_path / "out.npz"
    arguments = ["embed", write_embedder(tmp_path / "bundle"), photos_and_notes(tmp_path), out]
    said = refused(*arguments)
    assert "1 of 5 images cannot be read and are left out" in said
    assert "notes.jpg: not an image" in said
    assert np.load(out)["paths"].tolist() == ["000.png", "001.png", "002.png", "003.png"]
    assert "is there already; --overwrite" in refused(*arguments)
    printed = carried_out(*arguments, "--overwrite", "--skip-unreadable", "--normalize")
    assert "notes.jpg" in printed
    np.testing.assert_allclose(np.linalg.norm(np.load(out)["embeddings"], axis=1), 1, atol=1e-6)


def test_embed_says_what_it_cannot_embed(refused: Command, tmp_path: Path):
    encoder, out = write_embedder(tmp_path / "encoder"), tmp_path / "out.npz"
    classifier = write_bundle(tmp_path / "classifier")
    (tmp_path / "empty").mkdir()
    assert "is a classifier's bundle" in refused("embed", classifier, tmp_path / "empty", out)
    assert "has no images" in refused("embed", encoder, tmp_path / "empty", out)
    assert "is not a bundle" in refused("embed", tmp_path / "empty", tmp_path / "empty", out)
    flip_a_byte(encoder / "embed.onnx")
    assert "export the bundle again" in refused("embed", encoder, tmp_path / "empty", out)
    assert not out.exists()


def test_predict_names_unreadable_files_and_ends_with_code_2_unless_told_otherwise(
    refused: Command, carried_out: Command, tmp_path: Path
):
    out, classifier = tmp_path / "out.jsonl", write_bundle(tmp_path / "bundle")
    arguments = ["predict", classifier, photos_and_notes(tmp_path), "--out", out]
    said = refused(*arguments)
    assert "1 of 5 images cannot be read and have no answer" in said
    assert "notes.jpg: not an image" in said
    assert len(out.read_text().splitlines()) == 5
    assert "is there already; --overwrite" in refused(*arguments)
    allowed = [*arguments, "--overwrite", "--skip-unreadable", "--top-k", "2", "--probabilities"]
    assert "notes.jpg" in carried_out(*allowed)
    assert len(json.loads(out.read_text().splitlines()[0])["probabilities"]) == 3


@pytest.mark.parametrize(
    ("flag", "value"),
    [("--engine", "spark"), ("--device", "tpu"), ("--top-k", "two"), ("--workers", "many")],
)
def test_predict_refuses_values_that_it_does_not_know(
    refused: Command, tmp_path: Path, flag: str, value: str
):
    said = refused("predict", tmp_path, tmp_path, "--out", tmp_path / "out.csv", flag, value)
    assert flag in said


def test_predict_says_what_it_cannot_classify(refused: Command, tmp_path: Path):
    bundle_folder, out = write_bundle(tmp_path / "bundle"), tmp_path / "out.csv"
    assert "no images are given" in refused("predict", bundle_folder, "--out", out)
    assert "neither a file nor a folder" in refused(
        "predict", bundle_folder, tmp_path / "x", "--out", out
    )
    encoder = write_embedder(tmp_path / "encoder")
    assert "is an encoder's bundle" in refused("predict", encoder, tmp_path, "--out", out)
    assert "unknown mode" in refused(
        "predict", bundle_folder, tmp_path, "--out", out, "--mode", "x"
    )
    flip_a_byte(bundle_folder / "single.onnx")
    assert "export the bundle again" in refused("predict", bundle_folder, tmp_path, "--out", out)
