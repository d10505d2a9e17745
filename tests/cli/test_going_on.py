"""What a command line gives to a run that goes on is told from what it does not, whatever its value."""

import shutil
from pathlib import Path

import pytest

from tests.cli import Command
from tests.training.pretraining import pretraining
from tests.training.runs import interrupt_after, rows, settings
from training.classify import train
from training.config import OptimConfig
from training.pretrain import pretrain


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was interrupted in its first epoch, with no setting at its default. Not to be changed."""
    folder = tmp_path_factory.mktemp("begun")
    with pytest.MonkeyPatch.context() as patch:
        interrupt_after(patch, 5)
        return train(
            settings(folder, objective="baseline", seed=3, optim=OptimConfig(lr=0.05, warmup=0.1))
        ).folder


DEFAULTS = {
    "--objective": "sla-sd",
    "--epochs": "60",
    "--seed": "0",
    "--batch-size": "128",
    "--backbone": "resnet20",
    "--precision": "auto",
    "--optim.warmup": "0.05",
    "--data": "digits",
    "--device": "auto",
}


@pytest.mark.parametrize("flag", ["--epochs", "--optim.warmup", "--data", "--device"])
def test_default_value_is_refused_where_the_runs_own_is_another(
    refused: Command, begun: Path, flag: str
):
    said = refused("train", "--resume", begun, flag, DEFAULTS[flag])
    assert f"viewfold: {flag} cannot be given with --resume" in said


def test_all_that_cannot_be_given_is_named(refused: Command, begun: Path):
    given = [word for pair in DEFAULTS.items() for word in pair]
    said = refused("train", "--resume", begun, *given)
    named = said.partition(": ")[2].partition(" cannot be given")[0]
    assert set(named.split(", ")) == set(DEFAULTS)


def test_runs_own_values_and_what_may_change_do_no_harm(
    carried_out: Command, begun: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = shutil.copytree(begun, tmp_path / "run")
    shutil.copy(begun.parent / "set.npz", tmp_path / "moved.npz")
    monkeypatch.chdir(tmp_path)
    own = ["--objective", "baseline", "--epochs", "2", "--optim.warmup", "0.1", "--device", "cpu"]
    may_change = ["--data", "npz:moved.npz", "--workers", "2", "--devices", "1"]
    said = carried_out("train", "--resume", folder, *own, *may_change)
    assert "going on from step 6" in said
    assert "moved" in said
    assert len(rows(folder)) == 2


def test_pretraining_is_gone_on_with_alike(refused: Command, carried_out: Command, tmp_path: Path):
    folder = pretrain(pretraining(tmp_path, "simclr", epochs=1)).folder
    said = refused("pretrain", "--resume", folder, "--method", "simsiam", "--optim.warmup", "0.3")
    assert "--optim.warmup, --method cannot be given with --resume" in said
    assert "complete already" in carried_out("pretrain", "--resume", folder, "--method", "simclr")


def test_folder_without_a_run_of_that_kind_is_refused(
    refused: Command, begun: Path, tmp_path: Path
):
    assert "is not a run" in refused("train", "--resume", tmp_path, "--epochs", "60")
    assert "was made by `viewfold train`" in refused("pretrain", "--resume", begun)
