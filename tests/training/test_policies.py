from pathlib import Path

import pytest
import torch
from torch import Tensor
from torchvision.transforms import v2

from serving.images import ImageSpec
from tests.training.runs import settings
from training.checkpoint import Problem, Run
from training.config import AugmentConfig
from training.devices import ALONE
from training.errors import ConfigError
from training.policies import POLICIES, apply_policy, find_policy, vary
from training.step import set_up, train_step

NAMES = [name for name in POLICIES if name != "none"]


def pictures(batch: int = 16, height: int = 9, width: int = 12) -> Tensor:
    """Smooth pictures in colour."""
    generator = torch.Generator().manual_seed(3)
    coarse = torch.rand(batch, 3, 3, 3, generator=generator) * 255
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")
    return smooth.permute(0, 2, 3, 1).round().to(torch.uint8)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", NAMES)
def test_policy_changes_the_pixels_but_not_their_form(name: str):
    images = pictures()
    before = images.clone()
    found, _ = vary(images, seeded(), policy=name)
    assert (found.shape, found.dtype) == (images.shape, torch.uint8)
    assert not torch.equal(found, images)
    assert torch.equal(images, before)


def test_no_policy_changes_and_draws_nothing():
    images, generator = pictures(), seeded()
    found, _ = vary(images, generator, policy="none")
    assert torch.equal(found, images)
    assert torch.equal(generator.get_state(), seeded().get_state())


@pytest.mark.parametrize("name", NAMES)
def test_policy_depends_on_the_generator_alone(name: str):
    images = pictures()
    first, _ = vary(images, seeded(5), policy=name)
    torch.rand(7)
    again, _ = vary(images, seeded(5), policy=name)
    other, _ = vary(images, seeded(6), policy=name)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("name", NAMES)
def test_global_generator_is_left_as_it_was(name: str):
    before = torch.get_rng_state()
    vary(pictures(4), seeded(), policy=name)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", [*NAMES, "none"])
def test_what_was_drawn_gives_the_same_images_again(name: str):
    images = pictures()
    found, drawn = vary(images, seeded(), policy=name)
    assert torch.equal(apply_policy(images, drawn), found)


def test_every_image_draws_its_own():
    images = pictures(1).expand(32, -1, -1, -1)
    found, _ = vary(images, seeded(), policy="trivialaugment")
    assert len(found.flatten(1).unique(dim=0)) > 10


def test_steps_in_a_row_draw_differently():
    images, generator = pictures(), seeded()
    first, _ = vary(images, generator, policy="randaugment")
    second, _ = vary(images, generator, policy="randaugment")
    assert not torch.equal(first, second)


@pytest.mark.parametrize("name", NAMES)
def test_grey_images_stay_grey(name: str):
    grey = pictures(32)[..., :1].expand(-1, -1, -1, 3)
    found, _ = vary(grey, seeded(), policy=name)
    assert torch.equal(found, found[..., :1].expand_as(found))


@pytest.mark.parametrize("name", NAMES)
def test_plain_images_and_single_ones_are_taken(name: str):
    for colour in (0, 255):
        plain = torch.full((1, 8, 8, 3), colour, dtype=torch.uint8)
        assert vary(plain, seeded(), policy=name)[0].shape == (1, 8, 8, 3)


def test_unknown_policy_lists_the_valid_ones():
    with pytest.raises(ConfigError, match=r"'augmix'.*'none', 'randaugment', 'autoaugment'"):
        find_policy("augmix")


def first_loss(folder: Path, augment: AugmentConfig) -> float:
    """Of one step from fresh weights on the same pictures."""
    problem = Problem(
        ("a", "b"), ImageSpec(8, 8), (90.0,) * 3, (60.0,) * 3, 1, True, (40, 4, 20), {}
    )
    config = settings(folder, augment=augment, objective="baseline")
    learner = set_up(Run(folder, config, problem), ALONE)
    return train_step(learner, pictures(8, 8, 8), torch.arange(8) % 2, 0, 2).item()


def test_step_learns_from_what_policy_and_cutout_made(tmp_path: Path):
    plain = first_loss(tmp_path, AugmentConfig())
    assert first_loss(tmp_path, AugmentConfig()) == plain
    assert first_loss(tmp_path, AugmentConfig(policy="trivialaugment")) != plain
    assert first_loss(tmp_path, AugmentConfig(cutout=0.5)) != plain


# what docs/sla.md says of rotations beside quarter turns, from torchvision's own table


def largest_turn(policy: type) -> Tensor:
    """The angles that a policy may turn by, in degrees."""
    angles, signed = policy._AUGMENTATION_SPACE["Rotate"]
    assert signed
    return angles(31, 32, 32)


@pytest.mark.parametrize("policy", [v2.RandAugment, v2.AutoAugment])
def test_turns_of_randaugment_and_autoaugment_stay_nearest_to_no_quarter_turn(policy: type):
    assert largest_turn(policy).max() <= 30


def test_trivialaugment_turns_one_image_in_22_further_than_half_a_quarter():
    share = (largest_turn(v2.TrivialAugmentWide) > 45).double().mean()
    operations = len(v2.TrivialAugmentWide._AUGMENTATION_SPACE)
    assert share / operations == pytest.approx(0.046, abs=0.0005)
