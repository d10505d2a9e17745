"""What the command line takes from the encoder that it is given, where it is told nothing else."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli import Command
from tests.folders import many
from tests.training.pretraining import pretraining
from training import awareness, checkpoint
from training.checkpoint import Run
from training.config import DataConfig
from training.pretrain import pretrain
from training.pretrain_config import PretrainConfig, ViewsConfig


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Run[PretrainConfig]:
    """A pretrained encoder of 16 pixels, in a folder whose name a shell would split; its data has 8."""
    folder = tmp_path_factory.mktemp("encoder")
    config = pretraining(folder, epochs=1, out=folder / "my run")
    return pretrain(
        dataclasses.replace(config, data=dataclasses.replace(config.data, image_size=16))
    )


def training(encoder: Run[PretrainConfig], out: Path, *flags: str) -> list[str]:
    """The arguments of an epoch that starts from the encoder, on the data that it was pretrained on."""
    data = ["--data", encoder.config.data.data, "--workers", "1", "--device", "cpu"]
    short = ["--epochs", "1", "--batch-size", "8", "--out", str(out)]
    return ["train", "--weights", str(encoder.folder), *data, *short, *flags]


@pytest.mark.parametrize("weights", ["", "best/weights.safetensors"])
def test_training_takes_backbone_and_image_size_from_the_run_it_starts_from(
    carried_out: Command, encoder: Run[PretrainConfig], tmp_path: Path, weights: str
):
    out = tmp_path / "run"
    said = carried_out(*training(encoder, out, "--weights", str(encoder.folder / weights)))
    run = checkpoint.open_run(out)
    assert run.config.backbone == "resnet8"
    assert (run.problem.image.height, run.problem.image.width) == (16, 16)
    assert "they learnt at" not in said


def test_another_image_size_than_the_runs_is_taken_and_said(
    carried_out: Command, encoder: Run[PretrainConfig], tmp_path: Path
):
    said = carried_out(*training(encoder, tmp_path / "run", "--image-size", "8"))
    assert "they learnt at 16 x 16 pixels, and are trained on at 8 x 8" in said
    assert checkpoint.open_run(tmp_path / "run").problem.image.height == 8


def test_another_backbone_than_the_runs_is_refused(
    refused: Command, encoder: Run[PretrainConfig], tmp_path: Path
):
    # resnet20 is the backbone where no weights are given: it is given all the same
    said = refused(*training(encoder, tmp_path / "run", "--backbone", "resnet20"))
    assert "(resnet8) holds no weights of resnet20" in said


def test_resume_complains_of_other_weights_alone(
    carried_out: Command, refused: Command, encoder: Run[PretrainConfig], tmp_path: Path
):
    run = tmp_path / "run"
    carried_out(*training(encoder, run))
    said = refused("train", "--resume", run, "--weights", encoder.folder / "best")
    assert "viewfold: --weights cannot be given with --resume" in said
    assert "complete already" in carried_out("train", "--resume", run, "--weights", encoder.folder)


def test_commands_that_are_proposed_name_their_folders_as_a_shell_takes_them(
    carried_out: Command, refused: Command, encoder: Run[PretrainConfig], tmp_path: Path
):
    data = ["--data", encoder.config.data.data, "--workers", "1", "--device", "cpu"]
    out = tmp_path / "my probe"
    assert f"`viewfold export '{out}' BUNDLE`" in carried_out(
        "probe", encoder.folder, *data, "--out", out
    )
    own = tmp_path / "my encoder"
    said = carried_out(
        "pretrain", *data, "--out", own, "--epochs", "1", "--batch-size", "8",
        "--backbone", "resnet8", "--hidden", "16", "--projection", "16",
    )  # fmt: skip
    assert f"viewfold probe '{own}' --data" in said
    assert f"viewfold train --weights '{own}' --data" in said
    assert f"`viewfold train --weights '{own}'`" in refused("report", own)


@pytest.mark.parametrize("verb", ["probe", "fewshot", "awareness"])
def test_what_asks_an_encoder_says_how_to_make_one(refused: Command, tmp_path: Path, verb: str):
    assert "make one with `viewfold pretrain`" in refused(verb, tmp_path / "nowhere")


@pytest.mark.slow
def test_awareness_asks_about_the_given_data_and_takes_every_other_setting_from_the_encoder(
    carried_out: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for name in ("TRAIN_PAIRS", "CHOOSE_PAIRS", "HELD_PAIRS"):
        monkeypatch.setattr(awareness, name, 256)
    photos = DataConfig(data=f"folder:{many(tmp_path / 'photos', 24)}", workers=1, image_size=8)
    views = ViewsConfig(hue=0.0, blur=0.0, rotation=0.5)
    data = dataclasses.replace(photos, train_images=16, split_seed=3)
    config = pretraining(tmp_path, epochs=1, data=data, views=views, unlabelled=True)
    folder = pretrain(config).folder
    numbers = tmp_path / "aware.json"

    def asked(*flags: str) -> tuple[str, dict[str, Any]]:
        said = carried_out("awareness", folder, "--json", numbers, *flags)
        return said, json.loads(numbers.read_text())

    said, found = asked()
    assert "16 images to learn from, 2 held out, no labels" in said
    assert (found["data"], found["views"]) == (photos.data, plain(views))
    # one flag of the views leaves the others, also where it gives what nothing given means elsewhere
    _, found = asked("--views.hue", "0.1")
    assert found["views"] == plain(dataclasses.replace(views, hue=0.1))
    _, found = asked("--views.rotation", "0")
    assert found["views"] == plain(dataclasses.replace(views, rotation=0.0))
    # the digits are no default, and all of them are taken
    said, found = asked("--data", "digits")
    assert (found["data"], found["views"]) == ("digits", plain(views))
    assert "1,295 images to learn from" in said
    said, _ = asked("--data", "digits", "--train-images", "50")
    assert "50 images to learn from" in said


def plain(views: ViewsConfig) -> dict[str, Any]:
    """As JSON gives it back."""
    values: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(views)))
    return values
