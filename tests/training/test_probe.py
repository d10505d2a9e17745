"""`viewfold probe` and `fewshot`: what is asked of a frozen encoder."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.training.data_sets import striped
from tests.training.pretraining import STEPS, interrupt_after, pretraining
from tests.training.runs import settings
from training import checkpoint
from training.awareness import awareness
from training.backbones import build_backbone
from training.batches import ResidentBatches
from training.checkpoint import Run
from training.checks import check_settings
from training.classify import train
from training.config import DataConfig, TrainConfig
from training.encoder import Encoder
from training.errors import CheckpointError, ConfigError
from training.features import features_of
from training.few_shot import fewshot
from training.frozen import load_encoder
from training.knn import knn_accuracy
from training.logistic import fit
from training.pretrain import pretrain
from training.pretrain_config import PretrainConfig
from training.probe import probe
from training.probe_config import AwarenessConfig, FewShotConfig, ProbeConfig


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Run[PretrainConfig]:
    """A pretrained encoder, whose data lies beside it."""
    return pretrain(pretraining(tmp_path_factory.mktemp("encoder"), epochs=1))


def its_data(encoder: Run[PretrainConfig]) -> DataConfig:
    return DataConfig(data=encoder.config.data.data, workers=1)


def six_classes(folder: Path, each: int = 12) -> DataConfig:
    """Six classes by colour, so many training images of each."""
    generator = np.random.default_rng(0)
    labels = np.arange(6 * each) % 6
    images = generator.integers(0, 60, (6 * each, 8, 8, 3))
    images[:, :, :, 0] += 60 * (labels % 3)[:, None, None]
    images[:, :, :, 1] += 90 * (labels // 3)[:, None, None]
    pixels = images.astype(np.uint8)
    np.savez(
        folder / "six.npz",
        train_images=pixels,
        train_labels=labels,
        test_images=pixels,
        test_labels=labels,
    )
    return DataConfig(data=f"npz:{folder / 'six.npz'}", workers=1)


# probe


def test_probe_leaves_a_run_whose_network_answers_as_the_fit(
    encoder: Run[PretrainConfig], tmp_path: Path
):
    run = probe(ProbeConfig(encoder.folder, its_data(encoder), out=tmp_path / "probe"))
    assert run.complete
    network = checkpoint.load_network(run)
    frozen, _ = load_encoder(encoder.folder)
    images, _ = checkpoint.read_validation_images(run)
    head = checkpoint.read(run.folder / "best", "weights")[0]
    expected = frozen(images) @ head["class_head.weight"].T + head["class_head.bias"]
    with torch.no_grad():
        found = network(images).single
    torch.testing.assert_close(found, expected.detach(), atol=1e-5, rtol=0)


def test_probe_is_fitted_to_training_and_validation_images_and_leaves_the_encoder(
    encoder: Run[PretrainConfig], tmp_path: Path
):
    run = probe(ProbeConfig(encoder.folder, its_data(encoder), out=tmp_path / "probe"))
    weight = run.result()["probe"]["weight"]
    with np.load(encoder.config.data.data.removeprefix("npz:")) as file:
        images = torch.from_numpy(file["train_images"])  # 36 to train on and 4 held out of them
        labels = torch.from_numpy(file["train_labels"])
    frozen, _ = load_encoder(encoder.folder)
    features, _ = features_of(frozen, ResidentBatches(images, labels), batch_size=7)
    expected = fit(features, labels, num_classes=2, weight=weight)
    kept = checkpoint.read(run.folder / "best", "weights")[0]
    found = torch.cat([kept["class_head.weight"], kept["class_head.bias"][:, None]], dim=1)
    whole = torch.cat([expected.weights, expected.bias[:, None]], dim=1).float()
    torch.testing.assert_close(found, whole, atol=0.02 * whole.abs().max().item(), rtol=0)
    for name, value in frozen.state_dict().items():
        assert torch.equal(kept[name], value)


def test_probe_says_where_the_encoder_is_from_and_which_fits_it_tried(
    encoder: Run[PretrainConfig], tmp_path: Path
):
    run = probe(ProbeConfig(encoder.folder, its_data(encoder), out=tmp_path / "probe"))
    given = checkpoint.open_run(run.folder).problem.pretrained_weights
    assert given is not None
    assert given["method"] == "simsiam"
    assert len(run.result()["probe"]["validation"]) == 45
    assert set(run.result()["test"]) == {"plain"}
    assert run.result()["test"]["plain"]["n"] == 20


def test_probe_tells_what_the_neighbours_among_all_that_it_is_fitted_to_say(
    encoder: Run[PretrainConfig], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    run = probe(ProbeConfig(encoder.folder, six_classes(tmp_path), out=tmp_path / "probe"))
    frozen, _ = load_encoder(encoder.folder)
    with np.load(tmp_path / "six.npz") as file:
        splits = [
            ResidentBatches(
                *(torch.from_numpy(file[f"{name}_{what}"]) for what in ("images", "labels"))
            )
            for name in ("train", "test")
        ]
    known, asked = (features_of(frozen, batches, batch_size=9) for batches in splits)
    top1 = knn_accuracy(*known, *asked, num_classes=6, k=20, temperature=0.07)
    assert run.result()["knn"] == {"top1": pytest.approx(top1), "k": 20, "temperature": 0.07}
    assert f"of 20 nearest neighbours top-1 {100 * top1:.2f} %" in capsys.readouterr().out


def test_probe_of_a_classifiers_backbone_leaves_its_heads_out(tmp_path: Path):
    trained = train(settings(tmp_path, epochs=1))
    config = ProbeConfig(trained.folder, trained.config.data, out=tmp_path / "probe")
    run = probe(config)
    assert "joint_head.weight" not in checkpoint.read(run.folder / "best", "weights")[0]


def test_a_probe_is_not_trained_further(encoder: Run[PretrainConfig], tmp_path: Path):
    with pytest.raises(ConfigError, match="fitted to a frozen encoder, not trained"):
        check_settings(TrainConfig(objective="probe"))
    run = probe(ProbeConfig(encoder.folder, its_data(encoder), out=tmp_path / "probe"))
    assert train(TrainConfig(resume=run.folder)).complete  # and says so


def test_bad_input_of_a_probe_is_refused(encoder: Run[PretrainConfig], tmp_path: Path):
    data = its_data(encoder)
    cases: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"encoder": tmp_path / "nowhere"}, CheckpointError, "is not a run"),
        ({"metric": "f1"}, ConfigError, "unknown metric 'f1'"),
        (
            {"data": dataclasses.replace(data, image_size=32)},
            ConfigError,
            "--image-size 32: the encoder takes its images with 8",
        ),
        ({"out": encoder.folder}, CheckpointError, "is there already"),
    ]
    for changes, kind, message in cases:
        config = ProbeConfig(encoder.folder, data, out=tmp_path / "probe")
        with pytest.raises(kind, match=message):
            probe(dataclasses.replace(config, **changes))
    assert not (tmp_path / "probe").exists()


def test_what_the_encoder_decides_of_its_images_is_written_down_and_not_asked_for(
    encoder: Run[PretrainConfig], tmp_path: Path
):
    run = probe(ProbeConfig(encoder.folder, its_data(encoder), out=tmp_path / "probe"))
    assert run.config.data.resize == encoder.problem.image.resize
    data = dataclasses.replace(its_data(encoder), resize="stretch")
    with pytest.raises(ConfigError, match="--resize stretch: the encoder takes its images with"):
        probe(ProbeConfig(encoder.folder, data, out=tmp_path / "other"))


def test_a_probes_folder_names_no_command_to_go_on_with(
    encoder: Run[PretrainConfig], tmp_path: Path
):
    config = ProbeConfig(encoder.folder, its_data(encoder), out=tmp_path / "probe")
    run = probe(config)
    assert not (run.folder / "resume.txt").exists()
    with pytest.raises(CheckpointError, match="is no run to go on with"):
        probe(config)


def test_unfinished_encoder_is_not_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with monkeypatch.context() as patch:
        interrupt_after(patch, STEPS)
        run = pretrain(pretraining(tmp_path))
    data = DataConfig(data=run.config.data.data)
    for ask in (
        lambda: probe(ProbeConfig(run.folder, data, out=tmp_path / "probe")),
        lambda: fewshot(FewShotConfig(run.folder, data)),
        lambda: awareness(AwarenessConfig(run.folder, data)),
    ):
        with pytest.raises(ConfigError, match="not complete; go on with `viewfold pretrain"):
            ask()


def test_encoder_that_learnt_the_held_out_labels_is_not_asked(tmp_path: Path):
    run = pretrain(pretraining(tmp_path, "supervised", epochs=1))
    other = DataConfig(data=run.config.data.data, split_seed=1)
    with pytest.raises(ConfigError, match="it has seen images that are held out here"):
        probe(ProbeConfig(run.folder, other, out=tmp_path / "probe"))
    with pytest.raises(ConfigError, match="its classes are not new to it"):
        fewshot(FewShotConfig(run.folder, run.config.data))


def test_numbers_that_could_not_be_written_are_refused_first(
    encoder: Run[PretrainConfig], tmp_path: Path
):
    nowhere = tmp_path / "nowhere" / "x.json"
    with pytest.raises(ConfigError, match="there is no folder"):
        fewshot(FewShotConfig(encoder.folder, its_data(encoder), json=nowhere))
    with pytest.raises(ConfigError, match="there is no folder"):
        awareness(AwarenessConfig(encoder.folder, its_data(encoder), json=nowhere))


# few shots


def test_fewshot_of_colours_is_far_above_chance(
    encoder: Run[PretrainConfig], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    config = FewShotConfig(
        encoder.folder, six_classes(tmp_path), episodes=50, json=tmp_path / "few.json"
    )
    found = fewshot(config)
    assert found["shots"][5]["mean"] > 0.5  # chance is 0.2
    assert found["shots"][5]["n"] == 50
    said = capsys.readouterr().out
    assert "5-way 1-shot" in said
    assert "(50 episodes, 95 % interval)" in said
    written = json.loads((tmp_path / "few.json").read_text())
    assert (written["ways"], written["seed"], written["data"]) == (5, 0, config.data.data)


def test_bad_input_of_few_shots_is_refused(encoder: Run[PretrainConfig], tmp_path: Path):
    config = FewShotConfig(encoder.folder, six_classes(tmp_path), episodes=10)
    for changes, message in (
        ({"ways": 1}, "--ways is 1"),
        ({"shots": (5, 0)}, "--shots is 0"),
        ({"shots": ()}, "--shots is 0"),
        ({"queries": 0}, "--queries is 0"),
        ({"episodes": 1}, "--episodes is 1"),
        ({"ways": 7}, "7"),
        ({"shots": (30,)}, "30|46"),
    ):
        with pytest.raises(ConfigError, match=message):
            fewshot(dataclasses.replace(config, **changes))


# features


def test_encoder_gives_the_same_features_whatever_the_batch():
    torch.manual_seed(0)
    frozen = Encoder(build_backbone("resnet8", (8, 8)), [100.0] * 3, [50.0] * 3).eval()
    images, labels = (torch.from_numpy(array) for array in striped(10))
    batches = ResidentBatches(images, labels)
    whole, all_labels = features_of(frozen, batches, batch_size=10)
    parts, _ = features_of(frozen, batches, batch_size=3)
    torch.testing.assert_close(whole, parts, atol=1e-5, rtol=0)
    some, some_labels = features_of(frozen, batches, batch_size=4, places=torch.tensor([7, 2]))
    torch.testing.assert_close(some, whole[[7, 2]], atol=1e-5, rtol=0)
    assert some_labels.tolist() == all_labels[[7, 2]].tolist()
    pixels = (images[:1].permute(0, 3, 1, 2).float() - 100) / 50
    torch.testing.assert_close(whole[:1], frozen.backbone(pixels).detach(), atol=1e-5, rtol=0)
