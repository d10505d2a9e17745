import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests import oracles
from tests.training.data_sets import striped, write_npz
from tests.training.runs import settings
from training import checkpoint, step
from training.checksums import write_sums
from training.classify import train
from training.config import DataConfig, LossConfig, TrainConfig
from training.config_json import from_dict, to_dict
from training.errors import ConfigError
from training.imbalance import (
    Balance,
    balance,
    counted,
    effective_weights,
    inverse_weights,
    margins,
)
from training.network import COSINE_SCALE
from training.objectives import Terms, cross_entropy, sla_loss
from training.progress import Progress
from training.setup import start_run

COUNTS = [
    [500, 50, 5],
    [1, 1000],
    [1, 2, 3, 4],
    [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50],
]
CPU = torch.device("cpu")


def balanced(counts: list[int], **options: object) -> Balance:
    return balance(LossConfig(**options), counts, scale=COSINE_SCALE, device=CPU)


# weights and margins from counts


@pytest.mark.parametrize("counts", COUNTS)
def test_weights_and_margins_match_the_loop(counts: list[int]):
    for found, expected in (
        (inverse_weights(counts), oracles.inverse_weights(counts)),
        (effective_weights(counts), oracles.effective_weights(counts, 0.9999)),
        (margins(counts, 0.5), oracles.ldam_margins(counts, 0.5)),
    ):
        assert found.dtype == torch.float64
        assert found.tolist() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("weigh", [inverse_weights, effective_weights])
@pytest.mark.parametrize("count", [1, 7, 4999])
def test_equal_counts_weigh_exactly_one(weigh: object, count: int):
    assert weigh([count] * 7).tolist() == [1.0] * 7


@pytest.mark.parametrize("weigh", [inverse_weights, effective_weights])
@pytest.mark.parametrize("counts", COUNTS)
def test_weights_have_a_mean_of_one_and_grow_with_rarity(weigh: object, counts: list[int]):
    found = weigh(counts)
    assert found.mean().item() == pytest.approx(1, abs=1e-12)
    assert found.argsort().tolist() == np.argsort(-np.array(counts), kind="stable").tolist()


def test_inverse_weights_have_their_closed_form():
    assert inverse_weights([1, 3]).tolist() == pytest.approx([1.5, 0.5])


def test_effective_weights_lie_between_none_and_the_inverse_of_the_counts():
    counts = [500, 50, 5]
    assert effective_weights(counts, beta=0.0).tolist() == [1.0, 1.0, 1.0]
    close = effective_weights(counts, beta=1 - 1e-9)
    torch.testing.assert_close(close, inverse_weights(counts), atol=0, rtol=1e-5)
    # at n images of a class with β, (1 - β^n) / (1 - β) is a sum of powers: 1 + β for two of them
    two = effective_weights([1, 2], beta=0.5)
    assert (two[0] / two[1]).item() == pytest.approx(1.5)


def test_rarest_class_has_the_largest_margin_and_16_times_the_images_half_of_it():
    assert margins([160, 10, 2560], 0.5).tolist() == pytest.approx([0.25, 0.5, 0.125])
    assert margins([7, 7], 0.5).tolist() == [0.5, 0.5]
    assert margins([7, 3], 0.0).tolist() == [0.0, 0.0]


# by the settings


def test_nothing_is_done_for_the_classes_by_default():
    found = balanced([9, 3])
    assert (found.weights, found.margins, found.deferred) == (None, None, False)
    assert found.weights_at(9, 10) is None


def test_margins_are_in_units_of_the_logits():
    found = balanced([160, 10], ldam=0.5)
    assert found.margins is not None
    assert found.margins.tolist() == pytest.approx([7.5, 15.0])
    assert found.weights is None


@pytest.mark.parametrize("name", ["balanced", "effective"])
def test_weights_hold_from_the_first_step_on(name: str):
    found = balanced([9, 3], class_weights=name)
    assert found.weights is not None
    assert found.weights.dtype == torch.float32
    assert found.weights_at(0, 10) is found.weights


@pytest.mark.parametrize(("total", "first"), [(10, 8), (200, 160), (18, 15), (1, None), (5, 4)])
def test_deferred_weights_begin_with_the_last_fifth(total: int, first: int | None):
    found = balanced([9, 3], class_weights="deferred")
    begun = [s for s in range(total) if found.weights_at(s, total) is not None]
    assert begun == ([] if first is None else list(range(first, total)))
    same = balanced([9, 3], class_weights="effective").weights
    assert torch.equal(found.weights, same)


def test_class_without_an_image_is_refused_where_it_needs_a_weight_or_a_margin():
    labels = torch.tensor([0, 2, 2])
    assert counted(LossConfig(), labels, "abcd") == (1, 0, 2, 0)
    for options, flag in (
        ({"class_weights": "balanced"}, "--class-weights"),
        ({"ldam": 0.5}, "--ldam"),
    ):
        with pytest.raises(ConfigError, match=rf"^{flag} needs .*\['b', 'd'\]"):
            counted(LossConfig(**options), labels, "abcd")


# the loss that they make


def cosines(n: int, m: int = 1, b: int = 6) -> tuple[Tensor, Tensor]:
    """Random joint logits (B, M, N, M) in [-s, s], and labels."""
    generator = torch.Generator().manual_seed(0)
    joint = torch.rand(b, m, n, m, dtype=torch.float64, generator=generator) * 2 - 1
    return COSINE_SCALE * joint, torch.randint(n, (b,), generator=generator)


def test_ldam_drw_matches_the_loop():
    counts = [500, 50, 5]
    found = balanced(counts, ldam=0.5, class_weights="effective")
    logits, labels = cosines(3)
    single, targets = logits[:, 0, :, 0], F.one_hot(labels, 3).double()
    terms = Terms(weights=found.weights, margins=found.margins)
    expected = oracles.ldam_drw(single, labels, counts, largest=0.5, scale=30.0, beta=0.9999)
    assert cross_entropy(single, targets, terms=terms).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("m", [1, 4])
def test_joint_ldam_takes_its_classs_margin_and_weight_in_every_column(m: int):
    counts = [500, 50, 5]
    found = balanced(counts, ldam=0.5, class_weights="effective")
    joint, labels = cosines(3, m)
    terms = Terms(weights=found.weights, margins=found.margins)
    loss = sla_loss(joint, F.one_hot(labels, 3).double(), terms=terms)
    # a problem of N * M classes, each (y, j) with the images of y
    flat = joint.flatten(2).flatten(0, 1)  # (B * M, N * M)
    places = (labels[:, None] * m + torch.arange(m)).flatten()
    each = [count for count in counts for _ in range(m)]
    expected = oracles.ldam_drw(flat, places, each, largest=0.5, scale=30.0, beta=0.9999)
    assert loss.item() == pytest.approx(expected, rel=1e-6)


def test_ldam_of_no_margin_is_plain_cross_entropy():
    logits, labels = cosines(4)
    single, targets = logits[:, 0, :, 0], F.one_hot(labels, 4).double()
    terms = Terms(margins=balanced([9, 5, 3, 1], ldam=0.0).margins)
    assert cross_entropy(single, targets, terms=terms).item() == pytest.approx(
        oracles.cross_entropy(single, labels), abs=1e-12
    )


def test_margin_raises_the_loss_and_pulls_harder_on_the_rarer_class():
    found = balanced([80, 5], ldam=0.5)
    logits = torch.zeros(2, 2, dtype=torch.float64, requires_grad=True)
    targets = torch.eye(2, dtype=torch.float64)
    loss = cross_entropy(logits, targets, terms=Terms(margins=found.margins))
    assert loss.item() > math.log(2)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert abs(gradient[1, 1]) > abs(gradient[0, 0]) > 0.25
    # the closed form: softmax of logits that are lowered by the margin, less the target
    lowered = -torch.diag(torch.tensor([7.5, 15.0], dtype=torch.float64))
    torch.testing.assert_close(gradient, (lowered.softmax(1) - targets) / 2, atol=1e-6, rtol=0)


# in a run


def tail(folder: Path) -> DataConfig:
    images, labels = striped(80)
    path = write_npz(folder / "set.npz", train_images=images, train_labels=labels)
    return DataConfig(data=f"npz:{path}", workers=1, imbalance=4.0)


def test_run_counts_its_classes_and_learns_by_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    seen: list[Terms] = []
    original = step.objective

    def spy(name: str) -> object:
        chosen = original(name)

        def loss(logits: object, targets: Tensor, terms: Terms) -> Tensor:
            seen.append(terms)
            return chosen.loss(logits, targets, terms)

        return dataclasses.replace(chosen, loss=loss)

    monkeypatch.setattr(step, "objective", spy)
    loss = LossConfig(ldam=0.5, class_weights="deferred")
    run = train(settings(tmp_path, data=tail(tmp_path), loss=loss, epochs=1))
    assert checkpoint.open_run(run.folder).problem.class_counts == (36, 9)
    assert len(seen) == 11
    assert [terms.weights is not None for terms in seen] == [False] * 9 + [True] * 2
    expected = balanced([36, 9], ldam=0.5, class_weights="deferred")
    for terms in seen:
        assert torch.equal(terms.margins, expected.margins)
    assert torch.equal(seen[-1].weights, expected.weights)


def test_run_of_before_there_were_class_counts_is_read(tmp_path: Path):
    config = settings(tmp_path)
    run, _ = start_run(config, CPU, Progress())
    path = run.folder / "problem.json"
    values = json.loads(path.read_text())
    assert values.pop("class_counts") == [18, 18]
    path.write_text(json.dumps(values))
    (run.folder / checkpoint.SUMS).unlink()
    write_sums(run.folder)
    found = checkpoint.open_run(run.folder).problem
    assert found == dataclasses.replace(run.problem, class_counts=())


def test_settings_of_before_there_were_weights_take_their_defaults():
    values = to_dict(TrainConfig())
    for name in ("ldam", "class_weights"):
        values["loss"].pop(name)
    assert from_dict(TrainConfig, values) == TrainConfig()
