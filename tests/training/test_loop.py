import dataclasses
import math
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.training.data_sets import striped, write_npz
from tests.training.runs import assert_same_run, interrupt_after, rows, settings
from training import checkpoint, loop
from training.config import AugmentConfig, DataConfig, OptimConfig, TrainConfig
from training.errors import CheckpointError, ConfigError, DivergedError
from training.evaluate import Metrics
from training.loop import Position, train
from viewfold import main

# what a run leaves


def test_run_folder_holds_everything_to_go_on_and_to_export(tmp_path: Path):
    run = train(settings(tmp_path))
    assert run.complete
    names = {path.name for path in run.folder.iterdir()}
    assert names == {
        *("config.json", "problem.json", "validation.safetensors", "SHA256SUMS", "resume.txt"),
        *("best", "last", "metrics.csv", "tensorboard", "result.json"),
    }
    assert not [p for p in run.folder.rglob("*") if p.suffix in (".pt", ".pth", ".pkl", ".ckpt")]
    assert [row["epoch"] for row in rows(run.folder)] == ["1", "2"]
    assert [row["step"] for row in rows(run.folder)] == ["9", "18"]
    again = checkpoint.open_run(run.folder)
    assert again.problem.classes == ("0", "1")
    assert again.problem.crop_padding_px == 1
    checkpoint.load_network(again)


def test_tensorboard_shows_what_metrics_csv_holds(tmp_path: Path):
    run = train(settings(tmp_path))
    board = EventAccumulator(str(run.folder / "tensorboard")).Reload()
    losses = [event.value for event in board.Scalars("train_loss")]
    assert losses == pytest.approx([float(row["train_loss"]) for row in rows(run.folder)], rel=1e-6)
    assert "val_distilled_top1" in board.Tags()["scalars"]


def test_sla_sd_measures_three_modes_and_the_baseline_one(tmp_path: Path):
    modes = {}
    for objective in ("sla-sd", "baseline"):
        out = tmp_path / objective
        found = train(settings(tmp_path, objective=objective, epochs=1, out=out)).result()["test"]
        modes[objective] = {mode: values["forward_passes"] for mode, values in found.items()}
    assert modes["sla-sd"] == {"distilled": 1, "single": 1, "aggregated": 4}
    assert modes["baseline"] == {"plain": 1}


def test_validation_images_stay_in_the_run(tmp_path: Path):
    run = train(settings(tmp_path, epochs=1))
    images, labels = checkpoint.read_validation_images(run)
    assert images.shape == (4, 8, 8, 3)  # the whole validation split is smaller than 64
    expected = {picture.tobytes() for picture in striped(40)[0]}
    assert all(picture.numpy().tobytes() in expected for picture in images)
    assert sorted(labels.tolist()) == [0, 0, 1, 1]


def test_no_more_than_64_validation_images_stay(tmp_path: Path):
    data = DataConfig(data=settings(tmp_path).data.data, val_fraction=0.5)
    images, labels = striped(200)
    write_npz(tmp_path / "set.npz", train_images=images, train_labels=labels)
    run = train(settings(tmp_path, data=data, epochs=1, batch_size=64))
    assert len(checkpoint.read_validation_images(run)[0]) == 64


@pytest.mark.parametrize("objective", ["sla-sd", "baseline"])
@pytest.mark.parametrize("optimizer", [OptimConfig(lr=0.05), OptimConfig(name="adamw", lr=0.003)])
def test_loss_falls_on_what_can_be_learnt(objective: str, optimizer: OptimConfig, tmp_path: Path):
    config = settings(
        tmp_path,
        objective=objective,
        optim=optimizer,
        epochs=6,
        augment=AugmentConfig(crop_padding=0.0, flip="off"),
    )
    run = train(config)
    losses = [float(row["train_loss"]) for row in rows(run.folder)]
    assert losses[-1] < 0.75 * losses[0]
    assert next(iter(run.result()["test"].values()))["top1"] >= 0.9


def test_last_learning_rate_of_an_epoch_is_written_down(tmp_path: Path):
    run = train(settings(tmp_path, optim=OptimConfig(lr=0.05, schedule="constant", warmup=0.0)))
    assert [row["lr"] for row in rows(run.folder)] == ["0.05", "0.05"]


def test_split_smaller_than_a_batch_is_trained_on(tmp_path: Path):
    run = train(settings(tmp_path, batch_size=500))
    assert [row["step"] for row in rows(run.folder)] == ["1", "2"]


def test_baseline_takes_images_that_are_not_square_and_rotation_does_not(tmp_path: Path):
    images, labels = striped(40)
    write_npz(
        tmp_path / "set.npz",
        train_images=images[:, :, :6],
        train_labels=labels,
        test_images=images[:20, :, :6],
        test_labels=labels[:20],
    )
    assert train(settings(tmp_path, objective="baseline", epochs=1)).complete
    out = tmp_path / "other"
    with pytest.raises(ConfigError, match="needs square images, got 8 x 6"):
        train(settings(tmp_path, out=out))
    assert not out.exists()


def test_streamed_images_train_the_same_network_as_resident_ones(tmp_path: Path):
    resident = train(settings(tmp_path))
    data = dataclasses.replace(settings(tmp_path).data, resident_gib=0.0, workers=0)
    streamed = train(settings(tmp_path, data=data, out=tmp_path / "streamed"))
    assert_same_run(resident.folder, streamed.folder)


# which weights are chosen


def test_test_split_is_seen_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    seen: list[int] = []
    original = loop.evaluate

    def spy(networks: Any, batches: Any, **options: Any) -> Any:
        seen.append(len(batches))
        return original(networks, batches, **options)

    monkeypatch.setattr(loop, "evaluate", spy)
    train(settings(tmp_path, epochs=3))
    assert seen == [4, 4, 4, 20]


def test_weights_of_the_highest_accuracy_then_the_lowest_nll_are_chosen_and_tested(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    scores = [(0.5, 1.0), (0.8, 2.0), (0.8, 1.5), (0.8, 1.6), (0.0, 0.0)]
    seen: list[dict[str, torch.Tensor]] = []

    def graded(networks: Any, batches: Any, **_: Any) -> dict[str, Metrics]:
        top1, nll = scores[len(seen)]
        network = next(iter(networks.values()))
        seen.append({key: value.clone() for key, value in network.state_dict().items()})
        return dict.fromkeys(networks, Metrics(top1, nll, 0.0, 4))

    monkeypatch.setattr(loop, "evaluate", graded)
    run = train(settings(tmp_path, epochs=4))
    assert run.result()["best_epoch"] == 3
    kept, state = checkpoint.read(run.folder / "best", "weights")
    assert state["epoch"] == 3
    *_, third, fourth, tested = seen
    assert not torch.equal(third["class_head.weight"], fourth["class_head.weight"])
    for key, value in third.items():
        assert torch.equal(kept[key], value)
        assert torch.equal(tested[key], value)


def test_first_epoch_is_kept_however_bad():
    assert Position().improved_by(Metrics(top1=0.0, nll=50.0, ece=1.0, n=4))
    assert not Position().improved_by(Metrics(top1=-1.0, nll=math.inf, ece=1.0, n=4))


# what cannot be trained


@pytest.mark.parametrize("optimizer", [OptimConfig(lr=1e30), OptimConfig(name="adamw", lr=1e30)])
def test_loss_that_is_no_number_stops_the_run(optimizer: OptimConfig, tmp_path: Path):
    with pytest.raises(DivergedError, match=r"in epoch 1; try a lower --optim\.lr"):
        train(settings(tmp_path, optim=optimizer))


def test_unknown_backbone_is_refused_before_a_folder_is_made(tmp_path: Path):
    with pytest.raises(ConfigError, match="resnet21"):
        train(settings(tmp_path, backbone="resnet21"))
    assert not (tmp_path / "run").exists()


def test_run_is_not_trained_over_another(tmp_path: Path):
    train(settings(tmp_path, epochs=1))
    with pytest.raises(CheckpointError, match="is there already"):
        train(settings(tmp_path, epochs=1))


def test_mistake_is_one_line_and_exit_code_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    arguments = ["--data", f"folder:{tmp_path}", "--out", str(tmp_path / "run")]
    monkeypatch.setattr(sys, "argv", ["viewfold", "train", *arguments])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    message = capsys.readouterr().err
    assert message.startswith(f"viewfold: {tmp_path} is empty of folders")
    assert message.count("\n") == 1


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="compiling needs a C++ compiler")
def test_compiled_run_learns_what_an_eager_one_learns_and_goes_on_exactly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    eager = train(settings(tmp_path, out=tmp_path / "eager"))
    whole = train(settings(tmp_path, out=tmp_path / "whole", compile="on"))
    with monkeypatch.context() as patch:
        interrupt_after(patch, 12)
        assert not train(settings(tmp_path, compile="on")).complete
    assert train(TrainConfig(resume=tmp_path / "run")).complete
    assert_same_run(whole.folder, tmp_path / "run")
    # of the first epoch: rounding grows from step to step
    losses = [float(rows(run.folder)[0]["train_loss"]) for run in (eager, whole)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
