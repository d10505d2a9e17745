import math

import pytest
import torch
from torch import Tensor

from training.joint import joint_targets
from training.mixing import Mixed, draw, mix
from training.transformations import transformation_set, transformed_copies

NOTHING = torch.zeros(1, 4, dtype=torch.int64)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_images(batch: int = 6, side: int = 8) -> Tensor:
    return torch.randint(0, 256, (batch, side, side, 3), generator=seeded(3)).to(torch.uint8)


def one_hot(batch: int = 6, classes: int = 3) -> Tensor:
    return torch.eye(classes)[torch.arange(batch) % classes]


def drawn(batch: int = 400, seed: int = 0, **changes: float) -> Mixed:
    settings = {"mixup": 0.0, "cutmix": 0.0, "probability": 1.0} | changes
    return draw(batch, (8, 12), seeded(seed), **settings)


def replayed(images: Tensor, targets: Tensor, done: Mixed) -> tuple[Tensor, Tensor]:
    """Pixel by pixel, from the parameters: the partner's inside the box, the blend outside; then the target."""
    batch, height, width, _ = images.shape
    out, soft = torch.zeros_like(images), torch.zeros_like(targets)
    for b in range(batch):
        other, share = int(done.partner[b]), float(done.share[b])
        top, left, bottom, right = done.box[b].tolist()
        weight = 0.0
        for y in range(height):
            for x in range(width):
                own = 0.0 if top <= y < bottom and left <= x < right else share
                blend = own * images[b, y, x].double() + (1 - own) * images[other, y, x].double()
                out[b, y, x] = blend.round().to(torch.uint8)
                weight += own / (height * width)
        soft[b] = weight * targets[b] + (1 - weight) * targets[other]
    return out, soft


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.4, 0.0), (0.0, 1.0), (0.4, 1.0), (0.0, 0.0)])
@pytest.mark.parametrize("probability", [1.0, 0.5])
def test_mix_matches_the_loop_over_its_own_parameters(
    mixup: float, cutmix: float, probability: float
):
    images, targets = random_images(), one_hot()
    done = draw(6, (8, 8), seeded(), mixup=mixup, cutmix=cutmix, probability=probability)
    found, soft = mix(images, targets, done)
    expected, expected_soft = replayed(images, targets, done)
    assert found.dtype == torch.uint8
    assert (found.int() - expected.int()).abs().max() <= 1  # a half rounded in float32, not float64
    torch.testing.assert_close(soft, expected_soft, atol=1e-6, rtol=0)


def test_targets_stay_probabilities_and_images_keep_what_they_were_asked():
    images, targets = random_images(), one_hot()
    before = images.clone(), targets.clone()
    _, soft = mix(images, targets, draw(6, (8, 8), seeded(), mixup=1, cutmix=1, probability=1))
    torch.testing.assert_close(soft.sum(1), torch.ones(6))
    assert torch.equal(images, before[0])
    assert torch.equal(targets, before[1])


def test_nothing_is_mixed_where_nothing_is_on():
    images, targets = random_images(), one_hot()
    for settings in ({"mixup": 0, "cutmix": 0}, {"mixup": 1, "cutmix": 1, "probability": 0}):
        done = draw(6, (8, 8), seeded(), **({"probability": 1} | settings))
        found, soft = mix(images, targets, done)
        assert torch.equal(found, images)
        assert torch.equal(soft, targets)


def test_cutmix_counts_the_area_that_the_border_left_of_a_box():
    done = Mixed(torch.tensor([0]), torch.ones(1), torch.tensor([[0, 2, 3, 4]]))
    assert done.kept(8, 4).item() == pytest.approx(1 - 6 / 32)


def test_mixup_of_two_greys_is_the_grey_between_them():
    images = torch.stack([torch.zeros(2, 2, 3), torch.full((2, 2, 3), 200.0)]).to(torch.uint8)
    done = Mixed(torch.tensor([1, 0]), torch.tensor([0.75, 0.5]), NOTHING.expand(2, 4))
    found, soft = mix(images, torch.eye(2), done)
    assert found.flatten(1).unique(dim=1).flatten().tolist() == [50, 100]
    assert soft.tolist() == [[0.75, 0.25], [0.5, 0.5]]


def test_partners_are_a_permutation_of_the_batch():
    assert drawn(50, mixup=1).partner.sort().values.tolist() == list(range(50))


def test_shares_are_of_the_beta_distribution():
    share = drawn(4000, mixup=2.0).share  # Beta(2, 2): mean 1/2, variance 1/20
    assert share.mean().item() == pytest.approx(0.5, abs=5 * math.sqrt(1 / 20 / 4000))
    assert share.var().item() == pytest.approx(1 / 20, rel=0.1)


def test_boxes_lie_inside_the_image():
    top, left, bottom, right = drawn(cutmix=1).box.unbind(1)
    assert ((top >= 0) & (top <= bottom) & (bottom <= 8)).all()
    assert ((left >= 0) & (left <= right) & (right <= 12)).all()
    assert (bottom - top).max() >= 5  # halves are rounded down, as in the paper's code


def test_with_both_on_every_image_takes_one_of_them_at_even_odds():
    done = drawn(mixup=1, cutmix=1)
    blended, cut = done.share < 1, (done.box[:, 2] > done.box[:, 0])
    assert not (blended & cut).any()
    assert 150 < blended.sum() < 250


def test_probability_is_the_share_of_images_that_are_mixed():
    assert 60 < (drawn(mixup=1, probability=0.25).share < 1).sum() < 140


def test_same_seed_draws_the_same_and_the_global_generators_are_not_touched():
    before = torch.get_rng_state()
    first, again, other = (drawn(seed=s, mixup=1, cutmix=1) for s in (4, 4, 5))
    assert torch.equal(first.share, again.share)
    assert torch.equal(first.box, again.box)
    assert not torch.equal(first.share, other.share)
    assert torch.equal(torch.get_rng_state(), before)


def test_one_image_is_mixed_with_itself():
    images = random_images(1)
    found, soft = mix(
        images, one_hot(1), draw(1, (8, 8), seeded(), mixup=1, cutmix=1, probability=1)
    )
    assert torch.equal(found, images)
    torch.testing.assert_close(soft, one_hot(1))


@pytest.mark.parametrize("name", ["rotation", "color6", "flip", "rotation*color3"])
def test_a_copy_of_a_mixed_image_is_the_mixture_of_the_copies(name: str):
    """Why mixing comes before the transformations: every copy mixes two copies under one transformation."""
    transformations = transformation_set(name)
    images, targets = random_images(), one_hot()
    done = draw(6, (8, 8), seeded(), mixup=1, cutmix=0, probability=1)
    mixed, soft = mix(images, targets, done)
    copies = transformed_copies(images, transformations)
    for j in range(len(transformations)):
        expected, _ = mix(copies[:, j], targets, done)
        assert torch.equal(transformed_copies(mixed, transformations)[:, j], expected)
    joint = joint_targets(soft, len(transformations)).unflatten(2, (3, len(transformations)))
    own = torch.eye(len(transformations), dtype=torch.bool)[None, :, None, :]
    assert (joint * ~own).abs().sum() == 0
