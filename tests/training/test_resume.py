import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.training.data_sets import pixels, striped, write_npz
from tests.training.runs import STEPS, assert_same_run, interrupt_after, settings
from training import checkpoint, classify, loop
from training.classify import train
from training.config import AugmentConfig, DataConfig, LossConfig, OptimConfig, TrainConfig
from training.errors import CheckpointError, ConfigError, DataError
from training.position import Position, from_state

# the same again


def test_same_seed_gives_the_same_run_bitwise(tmp_path: Path):
    first = train(settings(tmp_path))
    torch.rand(7)  # what the process drew before does not matter
    second = train(settings(tmp_path, out=tmp_path / "again"))
    assert_same_run(first.folder, second.folder)


def test_another_seed_gives_other_weights_on_the_same_split(tmp_path: Path):
    first = train(settings(tmp_path, epochs=1))
    second = train(settings(tmp_path, epochs=1, seed=1, out=tmp_path / "other"))
    one, two = (load_file(run.folder / "last" / "weights.safetensors") for run in (first, second))
    assert not torch.equal(one["class_head.weight"], two["class_head.weight"])
    kept = [checkpoint.read_validation_images(run)[0] for run in (first, second)]
    assert torch.equal(*kept)


ENDS = {"in its first step": 0, "in mid-epoch": STEPS + 3, "at an epoch's end": STEPS - 1}
VARIANTS: dict[str, dict[str, Any]] = {
    "sgd": {},
    "adamw": {"optim": OptimConfig(name="adamw", lr=0.003)},
    "bf16": {"precision": "bf16"},
    "baseline": {"objective": "baseline"},
    "policy": {"augment": AugmentConfig(policy="randaugment", cutout=0.5)},
    "ldam-drw": {"loss": LossConfig(ldam=0.5, class_weights="deferred")},
    "averaged, mixed and smoothed": {
        "ema": 0.9,
        "teacher": "ema",
        "augment": AugmentConfig(mixup=0.3, cutmix=1.0, mix_probability=0.7),
        "loss": LossConfig(label_smoothing=0.1),
    },
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("end", ENDS)
def test_interrupted_run_ends_as_an_uninterrupted_one(
    end: str, variant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    whole = train(settings(tmp_path, out=tmp_path / "whole", **VARIANTS[variant]))
    with monkeypatch.context() as patch:
        interrupt_after(patch, ENDS[end])
        run = train(settings(tmp_path, **VARIANTS[variant]))
    assert not run.complete
    assert checkpoint.read(run.folder / "last", "weights")[1]["step"] == ENDS[end] + 1
    assert train(TrainConfig(resume=run.folder)).complete
    assert_same_run(whole.folder, run.folder)


def test_run_interrupted_in_its_last_step_is_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    interrupt_after(monkeypatch, 2 * STEPS - 1)
    assert train(settings(tmp_path)).complete


def test_second_interruption_stops_at_once_and_the_last_checkpoint_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    whole = train(settings(tmp_path, out=tmp_path / "whole"))

    def twice(learner: Any, images: Any, labels: Any, number: int, total: int) -> Any:
        if number == STEPS + 2:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
        return original(learner, images, labels, number, total)

    original = classify.train_step
    with monkeypatch.context() as patch:
        patch.setattr(classify, "train_step", twice)
        with pytest.raises(KeyboardInterrupt):
            train(settings(tmp_path))
    train(TrainConfig(resume=tmp_path / "run"))
    assert_same_run(whole.folder, tmp_path / "run")


@pytest.mark.parametrize("moment", [(loop, "_save_last"), (classify, "evaluate")])
def test_run_killed_around_an_epochs_end_ends_as_one_that_was_not(
    moment: tuple[ModuleType, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    whole = train(settings(tmp_path, out=tmp_path / "whole"))
    calls = 0
    original = getattr(*moment)

    def killed(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:  # of the second epoch
            raise MemoryError
        return original(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(*moment, killed)
        with pytest.raises(MemoryError):
            train(settings(tmp_path))
    train(TrainConfig(resume=tmp_path / "run"))
    assert_same_run(whole.folder, tmp_path / "run")


def test_signals_mean_what_they_meant_before_after_training(tmp_path: Path):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    train(settings(tmp_path, epochs=1))
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


# going on


def test_complete_run_is_left_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run = train(settings(tmp_path, epochs=1))
    before = {
        p: (p.stat().st_mtime_ns, p.read_bytes()) for p in run.folder.rglob("*") if p.is_file()
    }
    assert train(TrainConfig(resume=run.folder)).complete
    after = {
        p: (p.stat().st_mtime_ns, p.read_bytes()) for p in run.folder.rglob("*") if p.is_file()
    }
    assert after == before
    assert "complete already" in capsys.readouterr().out


def interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> Path:
    with monkeypatch.context() as patch:
        interrupt_after(patch, 3)
        return train(settings(tmp_path, **changes)).folder


def test_interruption_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    folder = interrupted(tmp_path, monkeypatch)
    command = (folder / "resume.txt").read_text().strip()
    assert command in capsys.readouterr().out
    assert command == f"viewfold train --resume {folder}"


@pytest.mark.parametrize("complete", [True, False])
def test_other_settings_are_refused_with_resume(
    complete: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = (
        train(settings(tmp_path, epochs=1)).folder
        if complete
        else interrupted(tmp_path, monkeypatch)
    )
    with pytest.raises(ConfigError, match=r"--optim\.lr, --epochs cannot be given with --resume"):
        train(TrainConfig(resume=folder, epochs=7, optim=OptimConfig(lr=1.0)))


def test_run_goes_on_upon_its_own_device_unless_another_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    asked: list[str] = []
    original = loop.pick_device

    def spy(name: Any) -> torch.device:
        asked.append(name)
        return original("cpu")

    monkeypatch.setattr(loop, "pick_device", spy)
    folder = interrupted(tmp_path, monkeypatch)
    with monkeypatch.context() as patch:
        interrupt_after(patch, 5)
        train(TrainConfig(resume=folder))
    train(TrainConfig(resume=folder, device="cuda"))
    assert asked == ["cpu", "cpu", "cuda"]


def test_run_whose_data_has_other_classes_now_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = interrupted(tmp_path, monkeypatch)
    write_npz(tmp_path / "set.npz", train_labels=[0, 1, 2, 3] * 10)
    with pytest.raises(DataError, match="other classes"):
        train(TrainConfig(resume=folder))


def test_run_whose_data_has_grown_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = interrupted(tmp_path, monkeypatch)
    write_npz(tmp_path / "set.npz", test_images=pixels(30), test_labels=[0, 1] * 15)
    with pytest.raises(DataError, match=r"\(36, 4, 30\) images.*but \(36, 4, 20\)"):
        train(TrainConfig(resume=folder))


def test_run_goes_on_where_its_data_has_moved_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    whole = train(settings(tmp_path, out=tmp_path / "whole"))
    folder = interrupted(tmp_path, monkeypatch)
    (tmp_path / "set.npz").rename(tmp_path / "moved.npz")
    with pytest.raises(DataError, match=r"set\.npz does not exist; if it has moved, give --data"):
        train(TrainConfig(resume=folder))
    monkeypatch.chdir(tmp_path)
    train(TrainConfig(resume=folder, data=DataConfig(data="npz:moved.npz")))
    assert_same_run(whole.folder, folder)
    # a run that is complete needs no data
    assert train(TrainConfig(resume=folder)).complete


def test_moved_data_must_be_the_same_in_number_and_classes_and_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = interrupted(tmp_path, monkeypatch)
    images, labels = striped(40)
    cases: dict[str, dict[str, Any]] = {
        "other classes": {"classes": ["left", "top"]},
        r"but \(36, 4, 20\) when": {"train_images": images[:30], "train_labels": labels[:30]},
        "other images than when .*, or in another order": {"train_images": images[::-1]},
    }
    for number, (said, changes) in enumerate(cases.items()):
        path = write_npz(tmp_path / f"{number}.npz", **changes)
        with pytest.raises(DataError, match=said):
            train(TrainConfig(resume=folder, data=DataConfig(data=f"npz:{path}")))


def test_precision_that_auto_chose_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("training.device._computes_bf16", lambda device: True)
    folder = interrupted(tmp_path, monkeypatch, precision="auto")
    monkeypatch.setattr("training.device._computes_bf16", lambda device: False)
    train(TrainConfig(resume=folder))
    assert checkpoint.open_run(folder).result()["precision"] == "bf16-mixed"


def test_resume_of_what_is_no_run_is_refused(tmp_path: Path):
    with pytest.raises(CheckpointError, match="is not a run"):
        train(TrainConfig(resume=tmp_path))


# the command


def viewfold(*arguments: str) -> subprocess.Popen[str]:
    """`viewfold ...` as a person starts it, with one thread, in a process group of its own."""
    paths = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return subprocess.Popen(
        ["viewfold", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PATH": paths},
    )


@pytest.mark.slow
@pytest.mark.parametrize("resident_gib", [4.0, 0.0])
def test_ctrl_c_leaves_a_checkpoint_and_the_printed_command_goes_on_to_the_same_weights(
    tmp_path: Path, resident_gib: float
):
    """With all images in memory, and decoded by a worker process, which the terminal's Ctrl-C reaches as well."""
    config = settings(tmp_path, epochs=20, out=tmp_path / "whole")
    whole = train(config)
    flags = (
        f"--data {config.data.data} --workers 1 --optim.lr 0.05 --backbone resnet8 --epochs 20 "
        f"--batch-size 4 --device cpu --precision fp32 --resident-gib {resident_gib} "
        f"--out {tmp_path / 'run'}"
    )
    process = viewfold("train", *flags.split())
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("epoch 1/20"):
            os.killpg(process.pid, signal.SIGINT)
            break
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert err == ""
    command = (tmp_path / "run" / "resume.txt").read_text().strip()
    assert out.rstrip().endswith(command)
    assert not (tmp_path / "run" / "result.json").exists()
    resumed = viewfold(*shlex.split(command)[1:])
    out, err = resumed.communicate(timeout=120)
    assert resumed.returncode == 0, err
    assert_same_run(whole.folder, tmp_path / "run")


def test_checkpoint_of_before_losses_had_names_is_gone_on_with():
    assert from_state({"step": 3, "epoch_loss": 1.5}) == Position(step=3, losses=[1.5])
    assert from_state({"step": 9, "epoch_loss": 0.0}) == Position(step=9)
