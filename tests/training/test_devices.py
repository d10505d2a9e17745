"""Several devices: what two processes leave is what one leaves, and only one of them writes and speaks."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from serving.limits import available_cpus
from tests.training.runs import of_two_processes, rows, settings
from training import devices
from training.backbones import build_backbone
from training.classify import train
from training.config import AugmentConfig, DataConfig, LossConfig, TrainConfig
from training.devices import ALONE, Team
from training.errors import ConfigError, DataError, TrainingError
from training.interrupt import interruption
from training.network import Network
from training.objectives import OBJECTIVES
from training.step import _sum_of_logits, leaves_unused
from training.transformations import transformation_set

# sums in another order: relative difference of losses and metrics, and absolute of weights
RTOL, ATOL = 1e-4, 1e-4


@pytest.fixture(autouse=True)
def _one_thread_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # the processes take it over


def command(*arguments: str, torchrun: bool = False) -> subprocess.Popen[str]:
    """A command line as a person starts it, in a process group of its own."""
    scripts = Path(sys.executable).parent
    start = [str(scripts / "torchrun"), "--nproc-per-node", "2", "--no-python"] if torchrun else []
    return subprocess.Popen(
        [*start, str(scripts / "viewfold"), "train", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
        env=os.environ | {"PYTHONPATH": os.getcwd()},
    )


def flags(folder: Path, **changes: str) -> list[str]:
    """Of a run of seconds on pictures of 8 x 8, on two processes."""
    given = {
        "--data": settings(folder).data.data,
        "--workers": "1",
        "--optim.lr": "0.05",
        "--backbone": "resnet8",
        "--epochs": "2",
        "--batch-size": "4",
        "--device": "cpu",
        "--precision": "fp32",
        "--devices": "2",
        "--out": str(folder / "run"),
    } | {f"--{name.replace('_', '-')}": value for name, value in changes.items()}
    return [word for pair in given.items() for word in pair]


# shares


@pytest.mark.parametrize("size", [1, 2, 4])
def test_shares_are_equal_and_make_up_the_batch(size: int):
    batch = torch.arange(8)[:, None]
    shares = [Team(rank=rank, size=size).share(batch) for rank in range(size)]
    assert [len(share) for share in shares] == [8 // size] * size
    assert torch.equal(torch.cat(shares), batch)


def test_one_process_is_a_team_that_asks_nobody():
    assert ALONE.first
    assert ALONE.mean(3.5) == 3.5
    assert [ALONE.agreed(flag) for flag in (True, False)] == [True, False]
    with ALONE.first_ahead(), devices.joined(1, torch.device("cpu")) as team:
        assert team == ALONE


def test_patient_interruption_outlives_a_second_signal():
    with interruption(patient=True) as flag:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
        assert flag.raised


@pytest.mark.parametrize("objective", sorted(OBJECTIVES))
def test_every_head_of_every_objective_gets_a_gradient_and_what_gets_none_is_found(objective: str):
    shape = (8, 8)
    network = Network(
        build_backbone("resnet8", shape),
        OBJECTIVES[objective],
        num_classes=3,
        transformations=transformation_set("rotation"),
    )
    before = {key: value.clone() for key, value in network.state_dict().items()}
    assert not leaves_unused(network, _sum_of_logits, shape)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    network.spare = torch.nn.Parameter(torch.ones(1))
    assert leaves_unused(network, _sum_of_logits, shape)


# what is refused

CPU = torch.device("cpu")


@pytest.fixture
def four_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "available_cpus", lambda: 4)


@pytest.mark.usefixtures("four_processors")
def test_number_of_processes_is_the_given_one_then_the_runs_then_one():
    assert devices.count(None, None, 4, CPU) == 1
    assert devices.count(None, 2, 4, CPU) == 2
    assert devices.count(1, 2, 4, CPU) == 1


@pytest.mark.usefixtures("four_processors")
def test_batch_that_cannot_be_shared_evenly_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="128 images cannot be shared evenly by 3 devices"):
        train(settings(tmp_path, batch_size=128, devices=3))
    assert not (tmp_path / "run").exists()


def test_more_devices_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ConfigError, match="--devices 2, but torch finds 1 CUDA devices here"):
        devices.count(2, None, 4, torch.device("cuda"))


@pytest.mark.usefixtures("four_processors")
@pytest.mark.parametrize(("given", "kept"), [(5, None), (None, 5)])
def test_more_processes_than_processors_are_refused(given: int | None, kept: int | None):
    with pytest.raises(ConfigError, match="--devices 5, but there are 4 processors here"):
        devices.count(given, kept, 20, CPU)
    assert devices.count(4, kept, 20, CPU) == 4


@pytest.mark.usefixtures("four_processors")
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"devices": 5, "batch_size": 20}, "--devices 5, but there are 4 processors"),
        ({"epochs": 0}, "--epochs is 0"),
        ({"data": DataConfig(data="npz:nowhere.npz")}, "nowhere.npz does not exist"),
        ({"data": DataConfig(data="cifar11")}, "unknown data 'cifar11'"),
        ({"data": DataConfig(download=True)}, "--download is for torchvision's data sets"),
        ({"objective": "distill", "teacher": "nowhere"}, "nowhere is not a run"),
        ({"weights": Path("nowhere.pt")}, "nowhere.pt does not exist"),
        ({"out": Path(__file__)}, "is there already"),
    ],
)
def test_what_can_be_told_beforehand_is_said_before_processes_are_started(
    changes: dict[str, Any], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(devices, "launch", lambda *_: pytest.fail("processes are started"))
    with pytest.raises(TrainingError, match=said):
        train(settings(tmp_path, **{"devices": 2} | changes))


def test_torchrun_decides_how_many(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert devices.count(None, 2, 8, CPU) == 4
    with pytest.raises(ConfigError, match="--devices 2 under torchrun, which started 4"):
        devices.count(2, None, 8, CPU)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="over several machines"):
        devices.count(None, None, 8, CPU)


# two processes


@pytest.fixture(scope="module")
def one_and_two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run in one process and the same in two. LayerNorm: BatchNorm's statistics are those of a process's rows."""
    folder = tmp_path_factory.mktemp("devices")
    config = settings(folder, backbone="timm/test_convnext")
    config = dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, image_size=32, imbalance=2.0),
        augment=AugmentConfig(mixup=0.4, cutmix=1.0),
        loss=LossConfig(class_weights="balanced"),
        ema=0.9,
        teacher="ema",
        teacher_copies=2,
    )
    runs = [
        train(dataclasses.replace(config, devices=count, out=folder / f"run{count}"))
        for count in (1, 2)
    ]
    return runs[0].folder, runs[1].folder


@pytest.mark.slow
@of_two_processes
def test_two_processes_train_the_network_that_one_does(one_and_two: tuple[Path, Path]):
    one, two = (rows(folder) for folder in one_and_two)
    assert len(one) == len(two) == 2  # one row an epoch
    for first, second in zip(one, two, strict=True):
        assert first.keys() == second.keys()
        for name in first:
            assert float(second[name]) == pytest.approx(float(first[name]), rel=RTOL), name
    for name in ("best", "last"):
        weights = [load_file(f / name / "weights.safetensors") for f in one_and_two]
        for key, value in weights[0].items():
            torch.testing.assert_close(weights[1][key], value, rtol=RTOL, atol=ATOL)
    assert float(one[1]["train_loss"]) < float(one[0]["train_loss"])


@pytest.mark.slow
@of_two_processes
def test_two_processes_count_every_image_once_and_write_one_set_of_files(
    one_and_two: tuple[Path, Path],
):
    one, two = one_and_two
    assert {p.name for p in two.iterdir()} == {p.name for p in one.iterdir()}
    assert len(list((two / "tensorboard").iterdir())) == len(list((one / "tensorboard").iterdir()))
    results = [json.loads((folder / "result.json").read_text()) for folder in one_and_two]
    for mode, expected in results[0]["test"].items():
        found = results[1]["test"][mode]
        assert found["n"] == 20
        assert found["nll"] == pytest.approx(expected["nll"], rel=RTOL)
    assert all(values["n"] == 4 for values in results[1]["val"].values())
    assert results[1]["hardware"].startswith("2 x ")


@pytest.mark.slow
@of_two_processes
def test_command_on_two_processes_is_interrupted_by_ctrl_c_saves_once_and_goes_on(tmp_path: Path):
    whole = command(*flags(tmp_path, epochs="10", out=str(tmp_path / "whole")))
    out, err = whole.communicate(timeout=500)
    assert whole.returncode == 0, err
    assert err == ""
    assert out.count("epoch 10/10") == 1  # one of them speaks
    process = command(*flags(tmp_path, epochs="10"))
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("epoch 1/10"):
            os.killpg(process.pid, signal.SIGINT)
            break
    out, err = process.communicate(timeout=500)
    assert process.returncode == 130, err
    assert err == ""
    assert out.count("interrupted at step") == 1
    resumed = command("--resume", str(tmp_path / "run"))
    out, err = resumed.communicate(timeout=500)
    assert resumed.returncode == 0, err
    assert "on 2 x " in out
    assert rows(tmp_path / "run") == rows(tmp_path / "whole")
    weights = [load_file(tmp_path / n / "last" / "weights.safetensors") for n in ("whole", "run")]
    assert [
        key for key, value in weights[0].items() if not torch.equal(weights[1][key], value)
    ] == []


@pytest.mark.slow
@of_two_processes
def test_command_under_torchrun_leaves_what_devices_2_leaves(tmp_path: Path):
    left = {}
    for torchrun in (False, True):
        given = flags(tmp_path, out=str(tmp_path / f"run{torchrun}"))
        if torchrun:
            at = given.index("--devices")
            del given[at : at + 2]
        process = command(*given, torchrun=torchrun)
        _, err = process.communicate(timeout=500)
        assert process.returncode == 0, err
        left[torchrun] = rows(tmp_path / f"run{torchrun}")
    assert left[True] == left[False]


@pytest.mark.slow
@of_two_processes
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"optim.lr": "1e30"}, "viewfold: the loss is nan in epoch 1; try a lower --optim.lr\n"),
        ({"data": f"npz:{__file__}"}, "is not an .npz file of plain arrays"),
    ],
)
def test_what_goes_wrong_in_the_processes_is_said_once(
    changes: dict[str, str], said: str, tmp_path: Path
):
    process = command(*flags(tmp_path, **changes))
    _, err = process.communicate(timeout=500)
    assert process.returncode == 2
    assert said in err
    assert err.count("\n") == 1


@pytest.mark.slow
@of_two_processes
def test_run_goes_on_with_another_number_of_processes(tmp_path: Path):
    process = command(*flags(tmp_path, epochs="10"))
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("epoch 1/10"):
            process.send_signal(signal.SIGTERM)  # of the launcher alone
            break
    assert (process.communicate(timeout=500), process.returncode)[1] == 130
    run = train(TrainConfig(resume=tmp_path / "run", devices=1))
    assert run.complete
    assert len(rows(run.folder)) == 10


@pytest.mark.slow
@of_two_processes
@pytest.mark.parametrize("given", [None, str(available_cpus())])  # torch takes no more than that
def test_processes_share_the_threads_unless_they_are_told_how_many(
    given: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("OMP_NUM_THREADS")
    if given is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    devices.launch(write_threads, tmp_path, 2)
    found = [(tmp_path / str(rank)).read_text() for rank in range(2)]
    assert found == [given or str(available_cpus() // 2)] * 2


def write_threads(folder: Path) -> None:
    """What a process of a team does: how many threads it computes with."""
    (folder / os.environ["RANK"]).write_text(str(torch.get_num_threads()))


@pytest.mark.slow
@of_two_processes
def test_fault_in_one_process_alone_ends_all(tmp_path: Path):
    began = time.perf_counter()
    with pytest.raises(DataError, match="only one"):
        devices.launch(fail_in_the_second, settings(tmp_path), 2)
    assert time.perf_counter() - began < 300  # and nobody waits for ever


def fail_in_the_second(config: TrainConfig) -> None:
    """What a process of a team does: the second fails while the first waits for it."""
    with devices.joined(2, CPU) as team:
        if not team.first:
            raise DataError("only one")
        team.mean(1.0)
