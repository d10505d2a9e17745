"""`viewfold awareness`: whether a frozen encoder knows what was done to its images."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.folders import many
from tests.training.data_sets import striped
from tests.training.pretraining import pretraining
from training import awareness as awareness_module
from training.awareness import awareness, defaults_of, measure
from training.batches import ResidentBatches
from training.checkpoint import Run
from training.config import DataConfig
from training.encoder import Encoder
from training.errors import ConfigError
from training.pretrain import pretrain
from training.pretrain_config import PretrainConfig, ViewsConfig
from training.probe_config import AwarenessConfig

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Run[PretrainConfig]:
    """A pretrained encoder, whose data lies beside it."""
    return pretrain(pretraining(tmp_path_factory.mktemp("encoder"), epochs=1))


def its_data(encoder: Run[PretrainConfig]) -> DataConfig:
    return DataConfig(data=encoder.config.data.data, workers=1)


class MeanColour(torch.nn.Module):
    """A backbone that knows the colours of a view and nothing of where it is from."""

    num_features = 3

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3))


class Blind(MeanColour):
    """A backbone that knows nothing."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(x), 3)


def few_pairs(monkeypatch: pytest.MonkeyPatch, train: int = 512) -> None:
    for name, value in (("TRAIN_PAIRS", train), ("CHOOSE_PAIRS", 256), ("HELD_PAIRS", 256)):
        monkeypatch.setattr(awareness_module, name, value)


BRIGHTNESS = ViewsConfig(jitter=1.0, contrast=0.0, saturation=0.0, hue=0.0, grey=0.0, rotation=1.0)


def scores(
    backbone: torch.nn.Module, monkeypatch: pytest.MonkeyPatch, views: ViewsConfig = BRIGHTNESS
) -> dict[str, Any]:
    few_pairs(monkeypatch, 1024)
    images, labels = (torch.from_numpy(array) for array in striped(200, 16))
    batches = ResidentBatches(images, labels)
    frozen = Encoder(backbone, [127.5] * 3, [60.0] * 3)
    return measure(frozen, batches, batches, views, seed=0)


def test_features_that_hold_the_colours_tell_the_jitter(monkeypatch: pytest.MonkeyPatch):
    found = scores(MeanColour(), monkeypatch)
    assert found["color"]["score"] > 0.3
    assert len(found["color"]["parts"]) == 1  # brightness: the others do not vary
    assert abs(found["rotation"]["score"] - 0.25) < 0.15


def test_features_that_hold_nothing_tell_nothing(monkeypatch: pytest.MonkeyPatch):
    found = scores(Blind(), monkeypatch)
    assert set(found) == {"crop", "flip", "color", "blur", "rotation"}
    assert abs(found["color"]["score"]) < 0.1
    assert abs(found["crop"]["score"]) < 0.1
    assert abs(found["flip"]["score"] - 0.5) < 0.15


STILL = ViewsConfig(crop_scale=(1.0, 1.0), flip=0, jitter=0, blur=0)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("crop", {"crop_scale": (0.9999, 1.0)}),  # all are rounded to the whole picture
        ("crop", {"crop_scale": (0.2, 1.0), "crop_ratio": (100.0, 200.0)}),  # none fits
        ("rotation", {"rotation": 1e-9}),  # as good as never drawn
        ("solarize", {"solarize": 1e-9}),
    ],
)
def test_views_of_which_no_two_differ_are_refused(
    name: str, change: dict[str, Any], monkeypatch: pytest.MonkeyPatch
):
    said = f"none of 256 pairs of views differs in {name}; set --views.{name}"
    with pytest.raises(ConfigError, match=said):
        scores(MeanColour(), monkeypatch, dataclasses.replace(STILL, **change))


def test_views_that_cannot_differ_are_refused(monkeypatch: pytest.MonkeyPatch):
    grey = dataclasses.replace(STILL, jitter=1.0, brightness=0.0, contrast=0.0, grey=1.0)
    for views in (STILL, grey):
        with pytest.raises(ConfigError, match="these views do not differ in anything"):
            scores(MeanColour(), monkeypatch, views)


def test_what_the_views_never_differ_in_is_left_out_and_said(
    encoder: Run[PretrainConfig],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    few_pairs(monkeypatch)
    views = ViewsConfig(crop_scale=(0.9999, 1.0), brightness=0.0, contrast=0.0, grey=1.0)
    found = awareness(AwarenessConfig(encoder.folder, its_data(encoder), views))["scores"]
    assert set(found) == {"flip", "blur"}
    said = capsys.readouterr().out
    assert (
        "crop      left out: none of 256 pairs of views differs in crop; set --views.crop" in said
    )
    assert said.count("left out") == 1


def test_awareness_repeats_itself_and_is_written_down(
    encoder: Run[PretrainConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    few_pairs(monkeypatch)
    config = AwarenessConfig(encoder.folder, its_data(encoder), json=tmp_path / "aware.json")
    first, second = awareness(config), awareness(config)
    assert first["scores"] == second["scores"]
    written = json.loads((tmp_path / "aware.json").read_text())
    assert written["scores"] == first["scores"]
    assert (written["data"], written["seed"]) == (encoder.config.data.data, 0)
    assert written["views"]["hue"] == encoder.config.views.hue
    with pytest.raises(ConfigError, match=r"--views\.hue is 0\.9"):
        awareness(dataclasses.replace(config, views=ViewsConfig(hue=0.9)))


def test_encoder_of_unlabelled_photos_is_asked_about_other_images(
    encoder: Run[PretrainConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for name in ("TRAIN_PAIRS", "CHOOSE_PAIRS", "HELD_PAIRS"):
        monkeypatch.setattr(awareness_module, name, 256)
    photos = DataConfig(data=f"folder:{many(tmp_path / 'photos', 24)}", workers=1, image_size=8)
    run = pretrain(pretraining(tmp_path, epochs=1, data=photos, unlabelled=True))
    assert awareness(defaults_of(run.folder))["data"] == photos.data
    found = awareness(AwarenessConfig(run.folder, its_data(encoder)))
    assert found["data"] == its_data(encoder).data
