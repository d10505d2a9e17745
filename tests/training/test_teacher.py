import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.data_sets import write_npz
from tests.training.runs import assert_same_run, interrupt_after, settings
from training import checkpoint
from training.checkpoint import Run
from training.checks import check_settings
from training.classify import train
from training.config import AugmentConfig, DataConfig, LossConfig, TrainConfig
from training.devices import ALONE
from training.errors import CheckpointError, ConfigError
from training.joint import aggregate, conditional, own_logits
from training.step import set_up, train_step
from training.teacher import Teacher, draw_copies, load_teacher


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run with joint labels, whose data lies beside it."""
    return train(settings(tmp_path_factory.mktemp("taught"), objective="sla", epochs=1))


def student(taught: Run, folder: Path, **changes: Any) -> TrainConfig:
    config = settings(taught.folder.parent, out=folder / "student", objective="distill")
    return dataclasses.replace(config, teacher=str(taught.folder), **changes)


def images(count: int = 4) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, 8, 8, 3), generator=generator).to(torch.uint8)


def test_teacher_answers_in_its_aggregated_mode(taught: Run):
    network = checkpoint.load_network(taught)
    teacher = Teacher(network, ("single", "aggregated"))
    with torch.no_grad():
        expected = aggregate(network(images()).joint)
    assert torch.equal(teacher(images()), expected)


def test_teacher_asked_about_every_copy_in_any_order_aggregates(taught: Run):
    teacher = Teacher(checkpoint.load_network(taught), ("single", "aggregated"))
    copies = torch.tensor([[0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1], [1, 3, 0, 2]])
    torch.testing.assert_close(teacher(images(), copies), teacher(images()), atol=1e-5, rtol=0)


def test_teacher_asked_about_one_copy_says_what_that_copy_says(taught: Run):
    network = checkpoint.load_network(taught)
    teacher = Teacher(network, ("single", "aggregated"))
    with torch.no_grad():
        joint = network(images()).joint
    answer = teacher(images(), torch.tensor([[0], [3], [1], [2]]))
    for image, transformation in enumerate([0, 3, 1, 2]):
        expected = conditional(joint, transformation)[image]
        torch.testing.assert_close(answer[image], expected, atol=1e-5, rtol=0)


def test_copies_are_drawn_without_repeating_and_each_as_often():
    drawn = draw_copies(4000, 2, 4, torch.Generator().manual_seed(0))
    assert drawn.shape == (4000, 2)
    assert (drawn[:, 0] != drawn[:, 1]).all()
    counts = drawn.flatten().bincount(minlength=4)
    # binomial: 2000 of 4000 images hold a copy, sd 32
    assert (counts - 2000).abs().max() < 160


def test_all_copies_can_be_drawn():
    drawn = draw_copies(5, 3, 3, torch.Generator().manual_seed(0))
    assert torch.equal(drawn.sort(1).values, torch.arange(3).expand(5, 3))


def test_student_asks_its_teacher_about_other_copies_every_step(
    taught: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    asked = []
    answer = Teacher.forward

    def forward(self: Teacher, images: torch.Tensor, copies: torch.Tensor) -> torch.Tensor:
        asked.append(copies)
        return answer(self, images, copies)

    monkeypatch.setattr(Teacher, "forward", forward)
    train(student(taught, tmp_path, teacher_copies=2, epochs=1))
    assert all(copies.shape[1] == 2 for copies in asked)
    assert not torch.equal(asked[0], asked[1])


def test_teacher_is_never_trained(taught: Run):
    teacher = Teacher(checkpoint.load_network(taught), ("single", "aggregated"))
    assert not teacher(images()).requires_grad
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert not teacher.network.training


def test_run_keeps_its_teacher_and_needs_the_original_no_more(taught: Run, tmp_path: Path):
    original = tmp_path / "original"
    shutil.copytree(taught.folder, original)
    moved = dataclasses.replace(taught, folder=original)
    config = dataclasses.replace(student(taught, tmp_path), teacher=str(moved.folder))
    run = train(config)
    shutil.rmtree(original)
    kept = load_teacher(run)
    answer = Teacher(checkpoint.load_network(taught), ("aggregated",))(images())
    assert torch.equal(kept(images()), answer)
    assert not (run.folder / "teacher" / "last").exists()
    assert list(run.result()["test"]) == ["distilled"]


def test_teacher_does_not_move_while_its_student_learns(taught: Run, tmp_path: Path):
    run = train(student(taught, tmp_path))
    one, two = (
        (folder / "best" / "weights.safetensors").read_bytes()
        for folder in (taught.folder, run.folder / "teacher")
    )
    assert one == two


def test_student_comes_to_say_what_its_teacher_says(taught: Run, tmp_path: Path):
    augment = AugmentConfig(crop_padding=0.0, flip="off")
    loss = LossConfig(beta=0.0)
    run = train(student(taught, tmp_path, epochs=12, augment=augment, loss=loss))
    rows = (run.folder / "metrics.csv").read_text().splitlines()
    losses = [float(row.split(",")[rows[0].split(",").index("train_loss")]) for row in rows[1:]]
    assert losses[-1] < 0.3 * losses[0]


@pytest.mark.parametrize(
    ("objective", "copies"), [("distill", None), ("distill", 1), ("sla-sd", 3)]
)
def test_interrupted_student_ends_as_an_uninterrupted_one(
    objective: str,
    copies: int | None,
    taught: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    config = student(taught, tmp_path, augment=AugmentConfig(cutmix=1.0, mixup=0.3))
    config = dataclasses.replace(config, objective=objective, teacher_copies=copies, ema=0.9)
    whole = train(dataclasses.replace(config, out=tmp_path / "whole"))
    with monkeypatch.context() as patch:
        interrupt_after(patch, 12)
        assert not train(config).complete
    assert train(TrainConfig(resume=tmp_path / "student")).complete
    assert_same_run(whole.folder, tmp_path / "student")


def test_averaged_weights_are_what_a_run_keeps(tmp_path: Path):
    run = train(settings(tmp_path, ema=0.9, epochs=1))
    best, _ = checkpoint.read(run.folder / "best", "weights")
    average, _ = checkpoint.read(run.folder / "last", "average")
    last, _ = checkpoint.read(run.folder / "last", "weights")
    assert all(torch.equal(best[key], average[key]) for key in best)
    assert not torch.equal(best["class_head.weight"], last["class_head.weight"])


def test_average_follows_its_definition(tmp_path: Path):
    """a_1 = w_1, then a_t = d_t a_{t-1} + (1 - d_t) w_t, with d_t = min(decay, 1 - (t)^(-2/3)), t from 2 on."""
    run = train(settings(tmp_path, epochs=1))
    run = dataclasses.replace(run, config=dataclasses.replace(run.config, ema=0.5))
    learner = set_up(run, ALONE)
    expected = None
    for step in range(5):
        train_step(learner, images(), torch.tensor([0, 1, 0, 1]), step, 5)
        weight = learner.network.class_head.weight.detach().clone()
        decay = min(0.5, 1 - (step + 1) ** (-2 / 3))
        expected = weight if expected is None else decay * expected + (1 - decay) * weight
        found = learner.shown.class_head.weight
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_averaged_weights_can_teach(tmp_path: Path):
    run = train(settings(tmp_path, ema=0.9, teacher="ema"))
    assert run.result()["test"].keys() == {"distilled", "single", "aggregated"}


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "an objective that learns alone": ({"objective": "sla", "teacher": "x"}, "--teacher is for"),
    "no teacher": ({"objective": "distill"}, "distill needs --teacher RUN"),
    "an average of a network without copies": (
        {"objective": "distill", "teacher": "ema", "ema": 0.9},
        "distill needs --teacher RUN",
    ),
    "an average that is not kept": ({"teacher": "ema"}, "--teacher ema needs --ema"),
    "copies of no teacher": ({"teacher_copies": 2}, "--teacher-copies needs --teacher"),
    "no copies": (
        {"teacher": "ema", "ema": 0.9, "teacher_copies": 0},
        "--teacher-copies is 0; it must be at least 1",
    ),
    "more copies than there are": (
        {"teacher": "ema", "ema": 0.9, "teacher_copies": 5},
        "--teacher-copies is 5; --teacher ema knows 4",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_teacher_that_does_not_fit_the_objective_is_refused(what: str):
    changes, message = REFUSED[what]
    with pytest.raises(ConfigError, match=message):
        check_settings(dataclasses.replace(TrainConfig(), **changes))


def test_folder_without_a_run_is_no_teacher(taught: Run, tmp_path: Path):
    with pytest.raises(CheckpointError, match="is not a run"):
        train(dataclasses.replace(student(taught, tmp_path), teacher=str(tmp_path)))


def test_unfinished_run_is_no_teacher(taught: Run, tmp_path: Path):
    shutil.copytree(taught.folder, tmp_path / "half")
    (tmp_path / "half" / "result.json").unlink()
    config = dataclasses.replace(student(taught, tmp_path), teacher=str(tmp_path / "half"))
    with pytest.raises(ConfigError, match=r"not complete.*--resume"):
        train(config)


@pytest.mark.parametrize(
    ("objective", "message"),
    [("sla", "--teacher-copies is 5; .* knows 4"), ("baseline", "joint labels; .* is of baseline")],
)
def test_copies_that_the_teacher_does_not_know_are_refused(
    objective: str, message: str, tmp_path: Path
):
    run = train(settings(tmp_path, objective=objective, epochs=1))
    with pytest.raises(ConfigError, match=message):
        train(student(run, tmp_path, teacher_copies=5))
    assert not (tmp_path / "student").exists()


def test_teacher_of_other_classes_is_refused(taught: Run, tmp_path: Path):
    names = write_npz(tmp_path / "names.npz", classes=["cat", "dog"])
    config = dataclasses.replace(student(taught, tmp_path), data=DataConfig(data=f"npz:{names}"))
    with pytest.raises(ConfigError, match=r"knows 2 classes .* the data has 2 \['cat', 'dog'\]"):
        train(config)


@pytest.fixture(scope="module")
def taught_mirrored(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("mirrored")
    return train(settings(folder, objective="sla", transformations="flip", epochs=1))


def test_students_images_are_not_mirrored_where_the_teacher_tells_mirrored_ones_apart(
    taught: Run, taught_mirrored: Run, tmp_path: Path
):
    for teacher, flip in ((taught, True), (taught_mirrored, False)):
        run = train(student(teacher, tmp_path / teacher.folder.parent.name, epochs=1))
        assert run.problem.flip is flip
    config = student(taught_mirrored, tmp_path, augment=AugmentConfig(flip="on"))
    with pytest.raises(ConfigError, match="flip among the teacher's transformations"):
        train(config)
    assert not (tmp_path / "student").exists()


@pytest.mark.parametrize("copies", [None, torch.tensor([[0, 2], [3, 1], [1, 0], [2, 3]])])
def test_teacher_averages_in_float32_under_autocast(taught: Run, copies: torch.Tensor | None):
    network = checkpoint.load_network(taught)
    teacher = Teacher(network, ("single", "aggregated"))
    with torch.autocast("cpu", torch.bfloat16):
        answer = teacher(images(), copies)
        joint = network(images()).joint
    assert joint.dtype == torch.bfloat16
    assert answer.dtype == torch.float32
    every = torch.arange(4).expand(4, 4) if copies is None else copies
    own = own_logits(joint.float())  # (4, 4, 2)
    expected = torch.stack([votes[asked].mean(0) for votes, asked in zip(own, every, strict=True)])
    torch.testing.assert_close(answer, expected, atol=0.05, rtol=0)
    torch.testing.assert_close(answer.softmax(1).sum(1), torch.ones(4))


def test_teacher_of_another_image_size_is_refused(taught: Run, tmp_path: Path):
    config = student(taught, tmp_path)
    data = dataclasses.replace(config.data, image_size=12)
    with pytest.raises(ConfigError, match="--image-size"):
        train(dataclasses.replace(config, data=data))


def test_teacher_that_has_seen_what_is_held_out_is_refused(taught: Run, tmp_path: Path):
    config = student(taught, tmp_path)
    data = dataclasses.replace(config.data, split_seed=3)
    with pytest.raises(ConfigError, match=r"--split-seed 0, not 3: it has seen images"):
        train(dataclasses.replace(config, data=data))
    assert not (tmp_path / "student").exists()
