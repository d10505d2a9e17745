import json
import pickle
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from safetensors.torch import load_file

from serving.images import ImageSpec
from training import checkpoint, optim
from training.checkpoint import Problem, Run
from training.config import OptimConfig, TrainConfig
from training.errors import CheckpointError
from training.network import Network
from training.optim import build_optimizer
from training.pretrain_config import PretrainConfig

CONFIG = TrainConfig(backbone="resnet8", transformations="rotation2")
PROBLEM = Problem(
    classes=("left", "tõp"),
    image=ImageSpec(8, 8),
    mean=(1.0, 2.5, 3.0),
    std=(4.0, 5.0, 6.5),
    crop_padding_px=1,
    flip=True,
    counts=(5, 1, 1),
    versions={"torch": "2"},
)
IMAGES = torch.arange(5 * 192).to(torch.uint8).view(5, 8, 8, 3)
LABELS = torch.arange(5)


def stepped(network: Network, optimizer: torch.optim.Optimizer, steps: int, seed: int = 0) -> None:
    """Some steps of training on noise."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        images = torch.randint(0, 256, (4, 8, 8, 3), generator=generator).to(torch.uint8)
        logits = network(images)
        optimizer.zero_grad()
        (logits.single.square().mean() + logits.joint.square().mean()).backward()
        optimizer.step()


@pytest.fixture(scope="session")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with both checkpoints; tests work on copies."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    checkpoint.create_run(folder, CONFIG, PROBLEM, IMAGES, LABELS)
    torch.manual_seed(0)
    network = checkpoint.build_network(CONFIG, PROBLEM)
    optimizer = build_optimizer(network, CONFIG.optim)
    stepped(network, optimizer, 2)
    checkpoint.write(folder / "best", {"epoch": 1}, weights=network.state_dict())
    checkpoint.write(
        folder / "last",
        {"step": 2},
        weights=network.state_dict(),
        optimizer=optim.optimizer_tensors(optimizer),
    )
    return folder


@pytest.fixture
def run_folder(whole_run: Path, tmp_path: Path) -> Path:
    return shutil.copytree(whole_run, tmp_path / "run")


def read_everything(folder: Path) -> None:
    run = checkpoint.open_run(folder)
    checkpoint.read_validation_images(run)
    checkpoint.load_network(run, "best")
    checkpoint.load_network(run, "last")
    checkpoint.read(folder / "last", "optimizer")


FILES = [
    "config.json",
    "problem.json",
    "validation.safetensors",
    "SHA256SUMS",
    "best/weights.safetensors",
    "best/state.json",
    "best/SHA256SUMS",
    "last/weights.safetensors",
    "last/optimizer.safetensors",
    "last/state.json",
    "last/SHA256SUMS",
]


def test_run_comes_back_as_it_was_written(run_folder: Path):
    read_everything(run_folder)
    run = checkpoint.open_run(run_folder)
    assert run.config == CONFIG
    assert run.problem == PROBLEM
    assert not run.complete
    images, labels = checkpoint.read_validation_images(run)
    assert torch.equal(images, IMAGES)
    assert torch.equal(labels, LABELS)


def test_files_of_the_list_are_all_there_are(run_folder: Path):
    found = {str(p.relative_to(run_folder)) for p in run_folder.rglob("*") if p.is_file()}
    assert found == {*FILES, "resume.txt"}


@pytest.mark.parametrize("where", [0.0, 0.01, 0.3, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("name", FILES)
def test_flipped_byte_is_refused(name: str, where: float, run_folder: Path):
    path = run_folder / name
    data = bytearray(path.read_bytes())
    data[int(where * (len(data) - 1))] ^= 0xFF
    path.write_bytes(bytes(data))
    with pytest.raises(CheckpointError):
        read_everything(run_folder)


@pytest.mark.parametrize("name", FILES)
def test_file_that_is_cut_short_is_refused(name: str, run_folder: Path):
    path = run_folder / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(CheckpointError):
        read_everything(run_folder)


@pytest.mark.parametrize("name", FILES)
def test_file_that_is_missing_is_refused(name: str, run_folder: Path):
    (run_folder / name).unlink()
    with pytest.raises(CheckpointError):
        read_everything(run_folder)


@pytest.mark.parametrize("name", ["config.json", "best/weights.safetensors"])
def test_message_names_what_was_altered(name: str, run_folder: Path):
    path = run_folder / name
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(CheckpointError, match=f"{path.name} does not match its checksum"):
        read_everything(run_folder)


def test_weights_come_back_bitwise_whatever_their_memory_layout(tmp_path: Path):
    network = checkpoint.build_network(CONFIG, PROBLEM).to(memory_format=torch.channels_last)
    checkpoint.write(tmp_path / "last", {}, weights=network.state_dict())
    found, _ = checkpoint.read(tmp_path / "last", "weights")
    assert found.keys() == network.state_dict().keys()
    assert all(torch.equal(found[key], value) for key, value in network.state_dict().items())


def test_state_comes_back_exactly(tmp_path: Path):
    state = {"loss": 0.1 + 0.2, "epoch": 3, "none": None}
    checkpoint.write(tmp_path / "last", state, weights={})
    assert checkpoint.read(tmp_path / "last", "weights")[1] == state


def test_writing_again_replaces_and_leaves_nothing_behind(tmp_path: Path):
    for step in (1, 2):
        checkpoint.write(tmp_path / "last", {"step": step}, weights={"w": torch.ones(step)})
    tensors, state = checkpoint.read(tmp_path / "last", "weights")
    assert state == {"step": 2}
    assert tensors["w"].tolist() == [1, 1]
    assert [path.name for path in tmp_path.iterdir()] == ["last"]


def test_checkpoint_killed_between_its_two_renames_is_recovered(tmp_path: Path):
    folder = tmp_path / "last"
    checkpoint.write(folder, {"step": 1}, weights={})
    shutil.copytree(folder, tmp_path / "last.part")
    folder.rename(tmp_path / "last.old")
    assert checkpoint.read(folder, "weights")[1] == {"step": 1}
    checkpoint.write(folder, {"step": 2}, weights={})
    assert checkpoint.read(folder, "weights")[1] == {"step": 2}
    assert [path.name for path in tmp_path.iterdir()] == ["last"]


def test_checkpoint_killed_while_it_is_written_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = tmp_path / "last"
    checkpoint.write(folder, {"step": 1}, weights={})

    def killed(folder: Path) -> NoReturn:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write_sums", killed)
        with pytest.raises(KeyboardInterrupt):
            checkpoint.write(folder, {"step": 2}, weights={})
    assert checkpoint.read(folder, "weights")[1] == {"step": 1}


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("config", [OptimConfig(lr=0.01), OptimConfig(name="adamw")])
def test_optimiser_goes_on_from_its_tensors_bitwise(
    config: OptimConfig, memory_format: torch.memory_format, tmp_path: Path
):
    def made() -> tuple[Network, torch.optim.Optimizer]:
        torch.manual_seed(0)
        network = checkpoint.build_network(CONFIG, PROBLEM).to(memory_format=memory_format)
        return network, build_optimizer(network, config)

    network, optimizer = made()
    stepped(network, optimizer, 2)
    tensors = optim.optimizer_tensors(optimizer)
    checkpoint.write(tmp_path / "last", {}, weights=network.state_dict(), optimizer=tensors)
    again, restored = made()
    again.load_state_dict(checkpoint.read(tmp_path / "last", "weights")[0])
    optim.restore_optimizer(restored, checkpoint.read(tmp_path / "last", "optimizer")[0])
    for one, two in ((network, optimizer), (again, restored)):
        stepped(one, two, 3, seed=1)
    for key, value in network.state_dict().items():
        assert value.isfinite().all()
        assert torch.equal(value, again.state_dict()[key]), key
    found = optim.optimizer_tensors(restored)
    expected = optim.optimizer_tensors(optimizer)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_optimiser_that_has_not_stepped_has_nothing_to_save():
    optimizer = build_optimizer(checkpoint.build_network(CONFIG, PROBLEM), CONFIG.optim)
    assert optim.optimizer_tensors(optimizer) == {}
    optim.restore_optimizer(optimizer, {})


def test_no_pickle_is_read_or_written(
    whole_run: Path, run_folder: Path, monkeypatch: pytest.MonkeyPatch
):
    def refuse(*arguments: Any, **options: Any) -> NoReturn:
        raise AssertionError("pickle was used")

    for name in ("load", "loads", "dump", "dumps", "Unpickler", "Pickler"):
        monkeypatch.setattr(pickle, name, refuse)
    monkeypatch.setattr(torch, "load", refuse)
    monkeypatch.setattr(torch, "save", refuse)
    read_everything(run_folder)
    weights, _ = checkpoint.read(run_folder / "last", "weights")
    checkpoint.write(run_folder / "last", {}, weights=weights)
    for path in (p for p in whole_run.rglob("*") if p.is_file()):
        if path.suffix == ".safetensors":
            load_file(path)
        elif path.suffix == ".json":
            json.loads(path.read_bytes())
        else:
            assert path.name in ("SHA256SUMS", "resume.txt")


def test_weights_of_another_network_are_refused(run_folder: Path):
    run = checkpoint.open_run(run_folder)
    other = checkpoint.build_network(TrainConfig(backbone="resnet20"), PROBLEM)
    checkpoint.write(run_folder / "best", {}, weights=other.state_dict())
    with pytest.raises(CheckpointError, match="weights are of another network"):
        checkpoint.load_network(run)


def test_loaded_network_is_ready_to_be_asked(run_folder: Path):
    network = checkpoint.load_network(checkpoint.open_run(run_folder))
    assert not network.training
    assert network.mean.flatten().tolist() == [1.0, 2.5, 3.0]


@pytest.mark.parametrize("make", [lambda path: None, Path.mkdir, Path.touch])
def test_what_is_no_run_is_refused(make: Callable[[Path], None], tmp_path: Path):
    make(tmp_path / "run")
    with pytest.raises(CheckpointError, match="is not a run"):
        checkpoint.open_run(tmp_path / "run")


def test_what_is_no_run_is_answered_with_the_command_that_makes_what_is_wanted(tmp_path: Path):
    for wanted, opened in (
        ("train", checkpoint.open_run),
        ("pretrain", checkpoint.open_any),  # whose backbone is asked for
        ("train", lambda folder: checkpoint.open_kind(folder, TrainConfig)),
        ("pretrain", lambda folder: checkpoint.open_kind(folder, PretrainConfig)),
    ):
        with pytest.raises(CheckpointError, match=f"make one with `viewfold {wanted}`"):
            opened(tmp_path)


def test_result_of_a_run_that_is_not_complete_is_refused(run_folder: Path):
    with pytest.raises(CheckpointError, match=r"result\.json cannot be read"):
        checkpoint.open_run(run_folder).result()


# where a run may be put


def created(folder: Path) -> Run:
    return checkpoint.create_run(folder, CONFIG, PROBLEM, IMAGES, LABELS)


def test_run_is_made_in_a_new_or_an_empty_folder(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    created(tmp_path / "empty")
    created(tmp_path / "some" / "where")
    assert checkpoint.open_run(tmp_path / "some" / "where").config == CONFIG


def test_run_is_not_made_over_another_which_can_be_gone_on_with(run_folder: Path):
    with pytest.raises(CheckpointError) as caught:
        created(run_folder)
    assert checkpoint.resume_command(run_folder) in str(caught.value)


def test_run_is_not_made_among_other_files(tmp_path: Path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(CheckpointError, match="is no run to go on with; give another --out"):
        created(tmp_path)


def test_run_is_not_made_in_place_of_a_file(tmp_path: Path):
    (tmp_path / "run").touch()
    with pytest.raises(CheckpointError, match="is no run to go on with; give another --out"):
        created(tmp_path / "run")


def test_place_that_cannot_hold_a_run_is_refused(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match=r"cannot make the run folder .*give another --out"):
        created(tmp_path / "file" / "run")


def test_place_that_cannot_hold_a_run_is_refused_before_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "file").touch()
    checkpoint.check_new(tmp_path / "some" / "where")
    for below in ("run", "some/run"):
        with pytest.raises(CheckpointError, match=r"file is no folder that can be written to"):
            checkpoint.check_new(tmp_path / "file" / below)
    monkeypatch.setattr(checkpoint.os, "access", lambda path, mode: False)
    with pytest.raises(CheckpointError, match=r"is no folder that can be written to"):
        checkpoint.check_new(tmp_path / "some" / "where")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_run_that_was_killed_while_it_was_made_is_no_run_to_go_on_with(run_folder: Path):
    (run_folder / "SHA256SUMS").unlink()
    with pytest.raises(CheckpointError, match="is no run to go on with; give another --out"):
        created(run_folder)


def test_command_to_go_on_with_is_in_the_run_and_holds_in_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    run = created(Path("it's a run"))
    words = shlex.split((run.folder / "resume.txt").read_text())
    assert words == ["viewfold", "train", "--resume", str(tmp_path / "it's a run")]
