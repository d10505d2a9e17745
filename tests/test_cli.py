"""The `viewfold` command with bad input: one clear sentence, exit code 2, no traceback."""

import errno
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import viewfold
from serving import bundle
from tests.bundles import write_bundle, write_embedder
from tests.runs import tiny_run, write_npz

Command = Callable[..., str]


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run a command that must be refused; returns the sentence it says."""

    def run(*arguments: str | Path) -> str:
        monkeypatch.setattr(sys, "argv", ["viewfold", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            viewfold.main()
        said = capsys.readouterr().err
        assert caught.value.code == 2, said
        assert "Traceback" not in said
        return said

    return run


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_run(tmp_path_factory.mktemp("cli")).folder


def pictures(folder: Path, count: int = 4, size: tuple[int, int] = (16, 16)) -> None:
    folder.mkdir(parents=True)
    for index in range(count):
        Image.new("RGB", size, (index * 20, 80, 120)).save(folder / f"{index}.png")


@pytest.mark.parametrize(
    ("flag", "value", "valid"),
    [
        ("--backbone", "resnet21", ["resnet20", "resnet32", "wrn-40-2", "timm/"]),
        ("--backbone", "timm/resnet19", ["resnet18", "did you mean"]),
        ("--data", "cifar11", ["cifar10", "digits", "npz:FILE", "folder:DIR", "mnist"]),
        ("--transformations", "spiral", ["rotation", "rotation2"]),
        ("--objective", "magic", ["baseline", "sla-sd"]),
        ("--optim.name", "sgdd", ["sgd", "adamw"]),
        ("--optim.schedule", "linear", ["cosine", "step", "constant"]),
        ("--device", "tpu", ["auto", "cpu", "cuda"]),
        ("--class-weights", "drw", ["balanced", "effective", "deferred"]),
        ("--policy", "augmix", ["randaugment", "autoaugment", "trivialaugment"]),
    ],
)
def test_unknown_name_is_answered_with_the_valid_ones(
    refused: Command, tmp_path: Path, flag: str, value: str, valid: list[str]
):
    said = refused("train", "--out", tmp_path / "run", flag, value)
    assert all(name in said for name in valid)
    assert not (tmp_path / "run").exists()


def test_unknown_command_is_answered_with_the_valid_ones(refused: Command):
    assert re.search("train.*evaluate.*report.*export.*serve", refused("tarin"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--epochs", "0"], "--epochs is 0"),
        (["--batch-size", "1"], "--batch-size is 1"),
        (["--optim.lr", "-1"], "must be above 0"),
        (["--temperature", "0"], "must be above 0"),
        (["--cutout", "nan"], "--cutout is nan"),
        (["--ldam", "nan"], "--ldam is nan"),
        (["--imbalance", "0.5"], "--imbalance is 0.5"),
        (["--train-images", "0"], "--train-images is 0"),
        (["--train-images", "2000"], "--train-images is 2000; there are 1295 images to train on"),
        (["--train-images", "9"], "--train-images is 9; it must be at least 10"),
        (["--val-fraction", "2"], "--val-fraction is 2"),
        (["--devices", "0"], "--devices is 0"),
        (["--devices", "3"], "128 images cannot be shared evenly by 3 devices"),
        (["--pretrained"], "resnet20, which has no published weights"),
        (["--weights", "nowhere.pt"], "--weights nowhere.pt does not exist"),
        (["--pretrained", "--weights", "w.pt", "--backbone", "timm/resnet18"], "are both given"),
        (["--optim.backbone-lr-factor", "-0.5"], "--optim.backbone-lr-factor is -0.5"),
        (["--epochs", "many"], "many"),
        (["--no-such-flag"], "no-such-flag"),
    ],
)
def test_bad_number_or_flag(refused: Command, tmp_path: Path, arguments: list[str], said: str):
    assert said in refused("train", "--out", tmp_path / "run", *arguments)


def test_weights_with_code_in_them(refused: Command, tmp_path: Path):
    torch.save({"stem.0.weight": Path("code")}, tmp_path / "w.pt")
    said = refused("train", "--weights", tmp_path / "w.pt", "--out", tmp_path / "run")
    assert "cannot be read as weights" in said
    assert not (tmp_path / "run").exists()


def test_folder_with_one_class(refused: Command, tmp_path: Path):
    pictures(tmp_path / "data" / "cats")
    said = refused("train", "--data", f"folder:{tmp_path / 'data'}", "--out", tmp_path / "run")
    assert "1 class (cats)" in said
    assert "at least 2" in said


def test_empty_folder(refused: Command, tmp_path: Path):
    (tmp_path / "data").mkdir()
    said = refused("train", "--data", f"folder:{tmp_path / 'data'}", "--out", tmp_path / "run")
    assert "a folder of images for each class" in said


def test_folder_that_is_not_there(refused: Command, tmp_path: Path):
    said = refused("train", "--data", f"folder:{tmp_path / 'data'}", "--out", tmp_path / "run")
    assert "does not exist" in said


def test_unreadable_files_are_named_and_counted_and_skipped_only_on_request(
    refused: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    for name in ("cats", "dogs"):
        pictures(tmp_path / "data" / name, count=12)
    (tmp_path / "data" / "cats" / "notes.jpg").write_text("no picture")
    whole = (tmp_path / "data" / "dogs" / "0.png").read_bytes()
    (tmp_path / "data" / "dogs" / "half.png").write_bytes(whole[: len(whole) // 2])
    arguments = ["train", "--data", f"folder:{tmp_path / 'data'}", "--out", str(tmp_path / "run")]
    arguments += [
        "--epochs",
        "1",
        "--batch-size",
        "4",
        "--image-size",
        "16",
        "--backbone",
        "resnet8",
    ]
    arguments += ["--val-fraction", "0.2", "--device", "cpu"]
    said = refused(*arguments)
    assert "cannot be read" in said
    assert "--skip-unreadable" in said
    assert "notes.jpg" in said or "half.png" in said
    monkeypatch.setattr(sys, "argv", ["viewfold", *arguments, "--skip-unreadable"])
    with pytest.raises(SystemExit) as caught:
        viewfold.main()
    assert caught.value.code == 0
    printed = capsys.readouterr().out
    assert "notes.jpg" in printed
    assert "half.png" in printed


def test_npz_with_a_missing_key(refused: Command, tmp_path: Path):
    np.savez(tmp_path / "data.npz", train_images=np.zeros((4, 8, 8, 3), np.uint8))
    said = refused("train", "--data", f"npz:{tmp_path / 'data.npz'}", "--out", tmp_path / "run")
    assert "has no 'train_labels'; it has ['train_images']" in said


def test_npz_with_a_wrong_shape(refused: Command, tmp_path: Path):
    np.savez(tmp_path / "data.npz", train_images=np.zeros((4, 3, 8, 8)), train_labels=np.arange(4))
    said = refused("train", "--data", f"npz:{tmp_path / 'data.npz'}", "--out", tmp_path / "run")
    assert "float64 (4, 3, 8, 8)" in said
    assert "(n, H, W, 3)" in said


def test_rotation_of_images_that_are_not_square(refused: Command, tmp_path: Path):
    images = np.zeros((20, 8, 12, 3), np.uint8)
    np.savez(tmp_path / "data.npz", train_images=images, train_labels=np.arange(20) % 2)
    said = refused("train", "--data", f"npz:{tmp_path / 'data.npz'}", "--out", tmp_path / "run")
    assert "needs square images, got 8 x 12" in said
    assert "--image-size 8" in said


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("verb", ["evaluate", "export"])
def test_checkpoint_with_a_flipped_byte(
    refused: Command, run_folder: Path, tmp_path: Path, verb: str
):
    shutil.copytree(run_folder, tmp_path / "run")
    flip_a_byte(tmp_path / "run" / "best" / "weights.safetensors")
    extra = [tmp_path / "bundle"] if verb == "export" else []
    assert "was altered" in refused(verb, tmp_path / "run", *extra)


def test_evaluate_says_what_it_cannot_measure(refused: Command, run_folder: Path, tmp_path: Path):
    assert "takes a run folder or a bundle" in refused("evaluate")
    assert "does not exist" in refused("evaluate", run_folder, tmp_path / "nowhere")
    assert "is not a run: it has no config.json" in refused("evaluate", tmp_path)
    assert "is given twice" in refused("evaluate", run_folder, run_folder)


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


def test_a_run_folder_in_use_is_not_overwritten(refused: Command, run_folder: Path):
    before = (run_folder / "metrics.csv").read_text()
    assert f"--resume {run_folder}" in refused("train", "--out", run_folder)
    assert (run_folder / "metrics.csv").read_text() == before


def test_report_says_what_it_cannot_show(refused: Command, run_folder: Path, tmp_path: Path):
    assert "is not a run: it has no config.json" in refused("report", tmp_path)
    out = tmp_path / "nowhere" / "page.html"
    assert "there is no folder" in refused("report", run_folder, "--out", out)
    assert "is a folder; give the name of a file" in refused(
        "report", run_folder, "--out", tmp_path
    )
    assert "must be at least 0" in refused("report", run_folder, "--mistakes", "-1")
    assert "--split" in refused("report", run_folder, "--split", "train")


@pytest.mark.parametrize(
    ("package", "arguments"), [("torch", ["train"]), ("matplotlib", ["report", "runs/digits"])]
)
def test_a_missing_package_names_the_extra(tmp_path: Path, package: str, arguments: list[str]):
    code = f"import sys; sys.modules[{package!r}] = None; sys.argv = ['viewfold', *{arguments}]\n"
    code += "import viewfold; viewfold.main()"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 2
    assert "pip install 'viewfold[train]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_usage_and_help_need_nothing_heavy():
    code = "import sys; sys.argv = ['viewfold', *{!r}]; import viewfold\n"
    code += "try: viewfold.main()\nfinally: assert 'torch' not in sys.modules and 'bentoml' not in sys.modules"
    for arguments in (
        ["--help"],
        ["train", "--help"],
        ["export", "--help"],
        ["evaluate", "--help"],
        ["report", "--help"],
        ["embed", "--help"],
        ["predict", "--help"],
    ):
        command = [sys.executable, "-c", code.format(arguments)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "usage" in done.stdout.lower()


def test_embed_leaves_unreadable_files_out_and_ends_with_code_2_unless_told_otherwise(
    refused: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    pictures(tmp_path / "photos")
    (tmp_path / "photos" / "notes.jpg").write_text("no picture")
    out = tmp_path / "out.npz"
    arguments = ["embed", write_embedder(tmp_path / "bundle"), tmp_path / "photos", out]
    said = refused(*arguments)
    assert "1 of 5 images cannot be read and are left out" in said
    assert "notes.jpg: not an image" in said
    assert np.load(out)["paths"].tolist() == ["0.png", "1.png", "2.png", "3.png"]
    assert "is there already; --overwrite" in refused(*arguments)
    allowed = [*arguments, "--overwrite", "--skip-unreadable", "--normalize"]
    monkeypatch.setattr(sys, "argv", ["viewfold", *map(str, allowed)])
    with pytest.raises(SystemExit) as caught:
        viewfold.main()
    assert caught.value.code == 0
    assert "notes.jpg" in capsys.readouterr().out
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


def test_a_full_disk_is_said_in_a_sentence(refused: Command, monkeypatch: pytest.MonkeyPatch):
    def full(arguments: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device", "weights.safetensors")

    monkeypatch.setitem(viewfold.VERBS, "train", full)
    assert refused("train") == "viewfold: No space left on device: weights.safetensors\n"


def test_a_defect_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch):
    def broken(arguments: object) -> int:
        raise RuntimeError("a defect")

    monkeypatch.setitem(viewfold.VERBS, "train", broken)
    monkeypatch.setattr(sys, "argv", ["viewfold", "train"])
    with pytest.raises(RuntimeError, match="a defect"):
        viewfold.main()


def test_npz_without_splits_is_split(tmp_path: Path):
    from training import data
    from training.config import DataConfig

    path = write_npz(tmp_path / "colours.npz")
    arrays = dict(np.load(path))
    np.savez(path, train_images=arrays["train_images"], train_labels=arrays["train_labels"])
    found = data.load(DataConfig(data=f"npz:{path}"))
    assert len(found.train) + len(found.val) + len(found.test) == 48


def test_predict_names_unreadable_files_and_ends_with_code_2_unless_told_otherwise(
    refused: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    pictures(tmp_path / "photos")
    (tmp_path / "photos" / "notes.jpg").write_text("no picture")
    out = tmp_path / "out.jsonl"
    arguments = ["predict", write_bundle(tmp_path / "bundle"), tmp_path / "photos", "--out", out]
    said = refused(*arguments)
    assert "1 of 5 images cannot be read and have no answer" in said
    assert "notes.jpg: not an image" in said
    assert len(out.read_text().splitlines()) == 5
    assert "is there already; --overwrite" in refused(*arguments)
    allowed = [*arguments, "--overwrite", "--skip-unreadable", "--top-k", "2", "--probabilities"]
    monkeypatch.setattr(sys, "argv", ["viewfold", *map(str, allowed)])
    with pytest.raises(SystemExit) as caught:
        viewfold.main()
    assert caught.value.code == 0
    assert "notes.jpg" in capsys.readouterr().out
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
