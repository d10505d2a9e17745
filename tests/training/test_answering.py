import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.runs import settings
from training.answering import at_once, load_answering, passes, that_looks
from training.checkpoint import Run, load_network
from training.classify import train
from training.errors import CheckpointError
from training.teacher import open_kept


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run with joint labels."""
    return train(settings(tmp_path_factory.mktemp("taught"), objective="sla", epochs=1))


def learn_from(teacher: Run, folder: Path, objective: str = "distill", **changes: Any) -> Run:
    config = settings(
        teacher.folder.parent, out=folder / objective, objective=objective, epochs=1, **changes
    )
    return train(dataclasses.replace(config, teacher=str(teacher.folder)))


@pytest.fixture(scope="module")
def folded(taught: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that learnt the aggregated answer of another in one pass. Not to be changed.

    Its settings name transformations that it never looked at, as they once could.
    """
    run = learn_from(taught, tmp_path_factory.mktemp("folded"))
    return dataclasses.replace(run, config=dataclasses.replace(run.config, transformations="flip"))


def same(one: torch.nn.Module, two: torch.nn.Module) -> bool:
    first, second = one.state_dict(), two.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def test_a_run_of_its_own_answers_in_all_modes_by_itself(taught: Run):
    networks = load_answering(taught)
    assert list(networks) == ["single", "aggregated"]
    assert networks["single"] is networks["aggregated"]
    assert passes(networks) == {"single": 1, "aggregated": 4}


def test_a_folded_run_answers_in_all_passes_by_its_teacher(folded: Run, taught: Run):
    networks = load_answering(folded)
    assert list(networks) == ["distilled", "aggregated"]
    assert same(networks["distilled"], load_network(folded))
    assert same(networks["aggregated"], load_network(taught))
    # by the transformations of the teacher, whatever the student's settings say
    assert passes(networks) == {"distilled": 1, "aggregated": 4}
    assert that_looks(networks) is networks["aggregated"]
    assert at_once(networks, folded.problem.image) == at_once(
        load_answering(taught), folded.problem.image
    )


def test_a_teacher_that_answers_in_one_pass_adds_no_mode(folded: Run, tmp_path: Path):
    again = learn_from(folded, tmp_path)
    assert list(load_answering(again)) == ["distilled"]


def test_joint_labels_with_a_teacher_aggregate_by_themselves(taught: Run, tmp_path: Path):
    networks = load_answering(learn_from(taught, tmp_path, "sla-sd"))
    assert networks["aggregated"] is networks["distilled"]


def test_a_folded_run_without_its_teacher_is_damaged(folded: Run, tmp_path: Path):
    copied = dataclasses.replace(folded, folder=tmp_path / "copied")
    shutil.copytree(folded.folder, copied.folder)
    shutil.rmtree(open_kept(copied).folder)
    with pytest.raises(CheckpointError, match="teacher is not a run"):
        load_answering(copied)
