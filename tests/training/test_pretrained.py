"""Fine-tuning: a run starts from weights that it was given, and from nothing else."""

import dataclasses
import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.training.data_sets import striped, write_npz
from tests.training.pretrained import assert_taken, save, start_of, weights_of
from tests.training.runs import assert_same_run, interrupt_after, rows, settings
from training import checkpoint, classify, loop
from training.checkpoint import Run
from training.checks import check_settings
from training.classify import train
from training.config import OptimConfig, TrainConfig
from training.errors import CheckpointError, ConfigError, WeightsError
from training.pretrained import backbone_lr_factor


def first_weights(monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensor]:
    """Filled with a run's weights just before its first step."""
    original, seen = classify.train_step, {}

    def step(learner: Any, *arguments: Any) -> Any:
        if not seen:
            seen.update({k: v.clone() for k, v in learner.network.state_dict().items()})
        return original(learner, *arguments)

    monkeypatch.setattr(classify, "train_step", step)
    return seen


# a run that starts from a file


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of a few epochs to start others from."""
    folder = tmp_path_factory.mktemp("teacher")
    return train(settings(folder, epochs=6, objective="sla"))


def test_run_starts_from_the_files_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    weights = weights_of("resnet8")
    path = save(tmp_path / "w.safetensors", weights)
    seen = first_weights(monkeypatch)
    run = train(settings(tmp_path, weights=path, epochs=1))
    under = {k.removeprefix("backbone."): v for k, v in seen.items() if k.startswith("backbone.")}
    assert_taken(under, weights)
    assert run.config.weights == path
    assert run.result()["pretrained_weights"]["file"] == "w.safetensors"
    assert checkpoint.open_run(run.folder).problem.pretrained_weights == start_of(path).provenance


@pytest.mark.parametrize("inside", ["", "best/weights.safetensors", "last/weights.safetensors"])
def test_run_starts_from_another_runs_backbone_and_normalisation(
    inside: str, teacher: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    images, labels = striped(40)
    write_npz(tmp_path / "set.npz", train_images=images // 2, train_labels=labels)
    seen = first_weights(monkeypatch)
    run = train(settings(tmp_path, weights=teacher.folder / inside, epochs=1, objective="baseline"))
    which = "last" if inside.startswith("last") else "best"
    given = load_file(teacher.folder / which / "weights.safetensors")
    shared = [key for key in seen if key in given]
    assert {"mean", "std"} < set(shared)
    assert [key for key in shared if not torch.equal(seen[key], given[key])] == []
    found = run.problem.pretrained_weights
    assert found is not None
    assert (found["source"], found["model"]) == ("viewfold", f"run/{which}")
    assert found["data"] == "npz:set.npz"


def test_run_that_starts_from_another_learns_faster_than_from_nothing(teacher: Run, tmp_path: Path):
    optim = OptimConfig(lr=0.01)
    tuned = train(settings(tmp_path, weights=teacher.folder, optim=optim, out=tmp_path / "tuned"))
    scratch = train(settings(tmp_path, optim=optim, out=tmp_path / "scratch"))
    for one, other in zip(rows(tuned.folder), rows(scratch.folder), strict=True):
        assert float(one["train_loss"]) < 0.95 * float(other["train_loss"])
    losses = [run.result()["test"]["distilled"]["nll"] for run in (tuned, scratch)]
    assert losses[0] < 0.8 * losses[1]


def test_backbone_learns_at_a_tenth_and_the_heads_rate_is_written_down(
    teacher: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    rates = []
    original = classify.train_step

    def step(learner: Any, *arguments: Any) -> Any:
        loss = original(learner, *arguments)
        rates.append([group["lr"] for group in learner.optimizer.param_groups])
        return loss

    monkeypatch.setattr(classify, "train_step", step)
    run = train(settings(tmp_path, weights=teacher.folder))
    assert all(backbone == pytest.approx(0.1 * heads) for backbone, heads in rates)
    assert [float(row["lr"]) for row in rows(run.folder)] == [rates[8][1], rates[17][1]]
    assert run.config.optim.backbone_lr_factor == 0.1


def test_factor_defaults_to_a_tenth_from_weights_and_to_one_from_none():
    assert backbone_lr_factor(TrainConfig()) == 1
    assert backbone_lr_factor(TrainConfig(pretrained=True)) == 0.1
    assert backbone_lr_factor(TrainConfig(weights=Path("w"))) == 0.1
    asked = OptimConfig(backbone_lr_factor=0.5)
    assert backbone_lr_factor(TrainConfig(weights=Path("w"), optim=asked)) == 0.5


@pytest.mark.parametrize("end", [0, 12])
@pytest.mark.parametrize("optim", [OptimConfig(lr=0.05), OptimConfig(name="adamw", lr=0.003)])
def test_interrupted_run_ends_as_an_uninterrupted_one_without_the_file(
    end: int, optim: OptimConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = save(tmp_path / "w.safetensors", weights_of("resnet8"))
    whole = train(settings(tmp_path, weights=path, optim=optim, out=tmp_path / "whole"))
    with monkeypatch.context() as patch:
        interrupt_after(patch, end)
        run = train(settings(tmp_path, weights=path, optim=optim))
    path.unlink()
    assert train(TrainConfig(resume=run.folder)).complete
    assert_same_run(whole.folder, run.folder)


@pytest.mark.parametrize("lost", [False, True])
def test_run_killed_in_its_first_epoch_goes_on_from_the_same_weights(
    lost: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = save(tmp_path / "w.safetensors", weights_of("resnet8"))
    whole = train(settings(tmp_path, weights=path, out=tmp_path / "whole"))
    with monkeypatch.context() as patch:
        patch.setattr(loop, "_train_epoch", lambda *_: (_ for _ in ()).throw(MemoryError))
        with pytest.raises(MemoryError):
            train(settings(tmp_path, weights=path))
    path.unlink()
    if lost:
        shutil.rmtree(tmp_path / "run" / "last")
        with pytest.raises(CheckpointError, match="before its pretrained weights were saved"):
            train(TrainConfig(resume=tmp_path / "run"))
    else:
        train(TrainConfig(resume=tmp_path / "run"))
        assert_same_run(whole.folder, tmp_path / "run")


def test_weights_cannot_be_changed_on_the_way(teacher: Run, tmp_path: Path):
    with pytest.raises(ConfigError, match="--weights cannot be given with --resume"):
        train(TrainConfig(resume=teacher.folder, weights=tmp_path))


# timm's published weights


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensor]:
    """timm's weights of test_resnet as the hub would give them; the test downloads nothing."""
    torch.manual_seed(7)
    published: dict[str, Tensor] = timm.create_model("test_resnet").state_dict()
    asked: list[str] = []

    def give(model_id: str, *_: object, **__: object) -> dict[str, Tensor]:
        asked.append(model_id)
        assert len(asked) == 1, "downloaded again"
        return dict(published)

    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", give)
    return published


def test_pretrained_run_starts_from_what_timm_loads_once(
    hub: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    seen = first_weights(monkeypatch)
    config = settings(tmp_path, backbone="timm/test_resnet", pretrained=True, epochs=1)
    data = dataclasses.replace(config.data, image_size=32)
    with monkeypatch.context() as patch:
        interrupt_after(patch, 2)
        run = train(dataclasses.replace(config, data=data))
    train(TrainConfig(resume=run.folder))
    checkpoint.load_network(run)
    under = {k.removeprefix("backbone."): v for k, v in seen.items() if k.startswith("backbone.")}
    assert_taken(under, {key: hub[key] for key in under})
    cfg = timm.get_pretrained_cfg("test_resnet")
    assert run.problem.mean == pytest.approx([255 * v for v in cfg.mean])
    assert run.problem.std == pytest.approx([255 * v for v in cfg.std])
    found = run.problem.pretrained_weights
    assert found is not None
    assert found["licence"] == cfg.license
    assert found["hf_hub_id"] == cfg.hf_hub_id
    assert json.loads((run.folder / "result.json").read_text())["pretrained_weights"] == found


@pytest.mark.parametrize("error", [OSError("no route"), RuntimeError("bad file"), KeyError("x")])
def test_weights_that_cannot_be_fetched_are_said_with_the_way_round(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", fail)
    config = settings(tmp_path, backbone="timm/test_resnet", pretrained=True)
    with pytest.raises(WeightsError, match=r"cannot be fetched .*--weights FILE"):
        train(config)
    assert not (tmp_path / "run").exists()


# what cannot be started from


def test_run_of_another_backbone_and_a_damaged_one_are_refused(teacher: Run, tmp_path: Path):
    with pytest.raises(WeightsError, match=r"\(resnet8\) holds no weights of resnet20"):
        start_of(teacher.folder, "resnet20")
    shutil.copytree(teacher.folder, tmp_path / "run")
    path = tmp_path / "run" / "best" / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(CheckpointError, match="altered"):
        start_of(tmp_path / "run")
    with pytest.raises(CheckpointError, match="is not a run"):
        start_of(tmp_path)


REFUSED = {
    "both given": {"pretrained": True, "weights": Path("/"), "backbone": "timm/resnet18"},
    "has no published weights": {"pretrained": True},
    "timm has no pretrained weights for timm/botnet50ts_256": {
        "pretrained": True,
        "backbone": "timm/botnet50ts_256",
    },
    "timm has no model": {"pretrained": True, "backbone": "timm/resnet19"},
    "does not exist": {"weights": Path("nowhere.pt")},
    "--optim.backbone-lr-factor is -1": {"optim": OptimConfig(backbone_lr_factor=-1)},
    "--optim.backbone-lr-factor is 0": {"optim": OptimConfig(backbone_lr_factor=0)},
    "--optim.backbone-lr-factor is nan": {"optim": OptimConfig(backbone_lr_factor=math.nan)},
}


@pytest.mark.parametrize("said", REFUSED)
def test_settings_that_cannot_work_are_refused_before_data_is_read(said: str):
    changes: Any = REFUSED[said]
    with pytest.raises((ConfigError, WeightsError), match=said):
        check_settings(TrainConfig(**changes))
