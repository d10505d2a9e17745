import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from training.augself import (
    AUGMENTATIONS,
    AugHead,
    AugSelf,
    AugSelfLoss,
    Views,
    check_targets,
    difference_loss,
    parse_weights,
    same_loss,
    turn_loss,
)
from training.errors import ConfigError
from training.pretrain_config import ViewsConfig
from training.ssl.method import Pair
from training.views import draw_views

EVERYTHING = ViewsConfig(rotation=0.7, solarize=0.5)
ALL = {"crop": 1.0, "flip": 0.5, "color": 2.0, "blur": 0.25, "rotation": 0.1, "solarize": 3.0}


def random_numbers(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def drawn(count: int, seed: int = 0) -> Views:
    generator = torch.Generator().manual_seed(seed)
    first, second = (draw_views(count, (32, 32), EVERYTHING, generator) for _ in range(2))
    return first, second


def features(count: int, width: int = 8) -> Pair:
    return random_numbers(count, width).float(), random_numbers(count, width, seed=1).float()


def heads(weights: dict[str, float] | None = None, width: int = 8) -> AugSelf:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AugSelf(width, ALL if weights is None else weights, EVERYTHING)


def loss(module: AugSelf, pair: Pair, params: Views) -> AugSelfLoss:
    return module(pair, module.targets(params, torch.device("cpu")))


# losses


@pytest.mark.parametrize("shape", [(5, 4), (3, 1), (1, 4)])
def test_difference_loss_matches_the_loop_over_values(shape: tuple[int, int]):
    prediction, target = random_numbers(*shape), random_numbers(*shape, seed=1).tanh()
    squares = [
        (math.tanh(p) - t) ** 2
        for p, t in zip(prediction.flatten().tolist(), target.flatten().tolist(), strict=True)
    ]
    assert difference_loss(prediction, target).item() == pytest.approx(sum(squares) / len(squares))


@pytest.mark.parametrize("count", [1, 6])
def test_same_loss_matches_the_loop_over_images(count: int):
    prediction, target = random_numbers(count, 1), (random_numbers(count, seed=2) > 0).double()
    loss = 0.0
    for logit, same in zip(prediction[:, 0].tolist(), target.tolist(), strict=True):
        loss += math.log(1 + math.exp(-logit if same else logit))
    assert same_loss(prediction, target).item() == pytest.approx(loss / count)


@pytest.mark.parametrize("count", [1, 6])
def test_turn_loss_matches_the_loop_over_images(count: int):
    prediction, target = random_numbers(count, 4), torch.arange(count) % 4
    loss = 0.0
    for logits, turn in zip(prediction.tolist(), target.tolist(), strict=True):
        loss += math.log(sum(math.exp(value) for value in logits)) - logits[turn]
    assert turn_loss(prediction, target).item() == pytest.approx(loss / count)


def test_losses_of_heads_that_know_nothing():
    nothing = torch.zeros(4, 1)
    assert difference_loss(nothing, torch.tensor([[1.0], [-1.0], [0.0], [0.0]])).item() == 0.5
    assert same_loss(nothing, torch.ones(4)).item() == pytest.approx(math.log(2))
    assert turn_loss(torch.zeros(4, 4), torch.arange(4)).item() == pytest.approx(math.log(4))


@pytest.mark.parametrize(
    ("loss", "prediction", "target"),
    [
        (difference_loss, torch.zeros(6, 1), torch.zeros(3)),  # the released code's solarize
        (difference_loss, torch.zeros(6, 1), torch.zeros(6)),
        (difference_loss, torch.zeros(6, 4), torch.zeros(6, 1)),
        (difference_loss, torch.zeros(6, 4), torch.zeros(1, 4)),
        (same_loss, torch.zeros(6, 1), torch.zeros(6, 1)),
        (same_loss, torch.zeros(6), torch.zeros(6)),
        (same_loss, torch.zeros(6, 1), torch.zeros(3)),
        (turn_loss, torch.zeros(6, 3), torch.zeros(6, dtype=torch.int64)),
        (turn_loss, torch.zeros(6, 4), torch.zeros(3, dtype=torch.int64)),
    ],
)
def test_shapes_that_would_broadcast_are_refused(loss, prediction: Tensor, target: Tensor):
    with pytest.raises(ValueError, match="the head answers"):
        loss(prediction, target)


# heads


def test_head_is_the_papers():
    head = AugHead(8, 4)
    shapes = [tuple(p.shape) for p in head.parameters() if p.ndim == 2]
    assert shapes == [(512, 16), (512, 512), (4, 512)]
    assert [type(layer).__name__ for layer in head.layers] == [
        "Linear", "BatchNorm1d", "ReLU", "Linear", "BatchNorm1d", "ReLU", "Linear",
    ]  # fmt: skip


def test_head_tells_the_first_view_from_the_second():
    head, (first, second) = AugHead(8, 1).eval(), features(5)
    assert not torch.allclose(head(first, second), head(second, first))


def test_there_is_a_head_for_every_weight_and_none_else():
    assert set(heads({"blur": 1.0, "crop": 0.0}).heads) == {"blur", "crop"}
    answers = {name: head.layers[-1].out_features for name, head in heads().heads.items()}
    assert answers == {"crop": 4, "flip": 1, "color": 4, "blur": 1, "rotation": 4, "solarize": 1}


# the whole


def test_total_matches_the_loop_over_augmentations_and_orders():
    module, (one, two), (first, second) = heads().eval(), features(7), drawn(7)
    found = loss(module, (one, two), (first, second))
    expected = 0.0
    for name, weight in ALL.items():
        asked, head = AUGMENTATIONS[name], module.heads[name]
        forth = asked.loss(head(one, two), asked.target(first, second, EVERYTHING))
        back = asked.loss(head(two, one), asked.target(second, first, EVERYTHING))
        assert found.parts[name].item() == pytest.approx((forth + back).item() / 2, rel=1e-5)
        expected += weight * (forth + back).item() / 2
    assert found.total.item() == pytest.approx(expected, rel=1e-5)


def test_both_orders_are_normalised_together():
    module, pair, params = heads({"crop": 1.0}), features(7), drawn(7)
    loss(module, pair, params)
    norm = module.heads["crop"].layers[1]
    rows = torch.cat([torch.cat(pair, dim=1), torch.cat(pair[::-1], dim=1)])
    first = module.heads["crop"].layers[0](rows)
    assert norm.num_batches_tracked == 1
    torch.testing.assert_close(norm.running_mean, 0.1 * first.mean(0), atol=1e-6, rtol=0)


@pytest.mark.parametrize("count", [1, 7])
def test_exchanging_the_views_changes_no_loss(count: int):
    one, two = features(count)
    first, second = drawn(count)
    found = loss(heads(), (one, two), (first, second))
    exchanged = loss(heads(), (two, one), (second, first))
    torch.testing.assert_close(found.total, exchanged.total, atol=1e-5, rtol=0)
    for name in ALL:
        torch.testing.assert_close(found.parts[name], exchanged.parts[name], atol=1e-5, rtol=0)


def test_features_and_parameters_that_do_not_belong_together_cost_more_after_learning():
    """Features that hold the parameters: the heads learn to read them, and only for their own image."""
    first, second = drawn(64)
    pair = tuple(
        torch.cat(
            [
                v.crop,
                v.flip[:, None],
                v.quarter_turns[:, None],
                v.jitter,
                v.sigma_px[:, None],
                v.threshold[:, None],
            ],
            dim=1,
        ).float()
        for v in (first, second)
    )
    weights = {name: 1.0 for name in ALL}
    module = heads(weights, width=pair[0].shape[1])
    optimizer = torch.optim.Adam(module.parameters(), lr=3e-3)
    before = loss(module, (pair[0], pair[1]), (first, second)).parts
    for _ in range(40):
        optimizer.zero_grad()
        loss(module, (pair[0], pair[1]), (first, second)).total.backward()
        optimizer.step()
    after = loss(module, (pair[0], pair[1]), (first, second)).parts
    astray = loss(module, (pair[0].roll(1, 0), pair[1]), (first, second)).parts
    for name in ALL:
        assert after[name] < 0.2 * before[name], name
        assert astray[name] > 2 * after[name], name


def test_gradient_reaches_both_views_and_every_head_and_not_the_parts():
    module = heads()
    one, two = (value.requires_grad_() for value in features(6))
    found = loss(module, (one, two), drawn(6))
    assert not any(part.requires_grad for part in found.parts.values())
    found.total.backward()
    for view in (one, two):
        assert view.grad is not None
        assert view.grad.abs().sum(1).min() > 0
    assert all(p.grad is not None for p in module.parameters())


def test_weights_scale_the_total_and_not_the_parts():
    pair, params = features(6), drawn(6)
    plain = loss(heads({name: 1.0 for name in ALL}), pair, params)
    tripled = loss(heads({name: 3.0 for name in ALL}), pair, params)
    torch.testing.assert_close(tripled.total, 3 * plain.total)
    assert tripled.parts == plain.parts
    torch.testing.assert_close(plain.total, torch.stack(list(plain.parts.values())).sum())


def test_no_weights_are_no_loss():
    found = loss(heads({}), features(3), drawn(3))
    assert found.total.item() == 0
    assert found.parts == {}


def test_losses_under_autocast_are_taken_in_float32():
    module, (one, two), (first, second) = heads({"crop": 1.0}).eval(), features(6), drawn(6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = loss(module, (one, two), (first, second))
        answers = [module.heads["crop"](*pair).float() for pair in ((one, two), (two, one))]
    target = AUGMENTATIONS["crop"].target(first, second, EVERYTHING)
    expected = difference_loss(torch.cat(answers), torch.cat([target, -target]))
    assert found.total.dtype == torch.float32
    torch.testing.assert_close(found.total, expected, atol=1e-7, rtol=1e-6)


def test_answers_of_another_count_than_the_parameters_are_refused():
    for name in ALL:
        with pytest.raises(ValueError, match="the head answers"):
            loss(heads({name: 1.0}), features(6), drawn(3))


# --augself


def test_weights_are_read_in_any_order_and_with_spaces():
    assert parse_weights("crop=1.0,color=0.5", EVERYTHING) == {"crop": 1.0, "color": 0.5}
    assert parse_weights(" blur = 2e-1 , flip=0", EVERYTHING) == {"blur": 0.2, "flip": 0.0}
    assert parse_weights(",".join(f"{n}={w}" for n, w in ALL.items()), EVERYTHING) == ALL
    assert parse_weights("", EVERYTHING) == parse_weights("  ", EVERYTHING) == {}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("colour=1", "unknown augmentation 'colour'; choose from ['blur', 'color', 'crop', 'flip'"),
        ("crop=1,", "unknown augmentation ''"),
        ("crop", "'crop' has no weight; write it as crop=1.0"),
        ("crop=", "'crop=' has no weight"),
        ("crop=1=2", "has no weight"),
        ("crop=-1", "--augself crop=-1: a weight must be a number, at least 0"),
        ("crop=nan", "at least 0"),
        ("crop=inf", "at least 0"),
        ("crop=1,flip=1,crop=2", "--augself names crop twice"),
    ],
)
def test_weights_that_cannot_be_read_are_refused(text: str, words: str):
    with pytest.raises(ConfigError) as caught:
        parse_weights(text, EVERYTHING)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("crop", {"crop_scale": (1.0, 1.0)}),
        ("flip", {"flip": 0.0}),
        ("flip", {"flip": 1.0}),
        ("color", {"jitter": 0.0}),
        ("color", {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0}),
        ("color", {"brightness": 0.0, "contrast": 0.0, "grey": 1.0}),
        ("blur", {"blur": 0.0}),
        ("blur", {"blur": 1.0, "blur_sigma": (1.0, 1.0)}),
        ("rotation", {"rotation": 0.0}),
        ("solarize", {"solarize": 0.0}),
    ],
)
def test_augmentation_that_the_views_lack_is_refused(name: str, change: dict[str, object]):
    assert parse_weights(f"{name}=1", EVERYTHING) == {name: 1.0}
    lacking = dataclasses.replace(EVERYTHING, **change)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=f"--augself {name} has nothing to predict"):
        parse_weights(f"{name}=1", lacking)


def test_augmentation_that_varies_in_one_way_only_is_allowed():
    hue_only = ViewsConfig(brightness=0.0, contrast=0.0, saturation=0.0, hue=0.1)
    assert parse_weights("color=1", hue_only) == {"color": 1.0}
    all_grey = ViewsConfig(contrast=0.0, grey=1.0)
    assert parse_weights("color=1", all_grey) == {"color": 1.0}
    on_or_off = ViewsConfig(blur=0.5, blur_sigma=(1.0, 1.0))
    assert parse_weights("blur=1", on_or_off) == {"blur": 1.0}
    assert parse_weights("crop=1", ViewsConfig(crop_scale=(0.5, 0.5))) == {"crop": 1.0}


@pytest.mark.parametrize("name", ALL)
def test_settings_say_the_same_as_what_is_drawn(name: str):
    grey = dataclasses.replace(EVERYTHING, brightness=0.0, contrast=0.0, grey=1.0)
    still = ViewsConfig(crop_scale=(1.0, 1.0), flip=0.0, jitter=0.0, blur=0.0)
    for views in (EVERYTHING, grey, still):
        if AUGMENTATIONS[name].varies(views):
            check_targets([name], views, (32, 32))
        else:
            with pytest.raises(ConfigError, match=f"--augself {name} has nothing to predict"):
                check_targets([name], views, (32, 32))


@pytest.mark.parametrize("change", [{"crop_scale": (0.9999, 1.0)}, {"crop_ratio": (100.0, 200.0)}])
def test_crops_that_are_the_same_at_the_pictures_size_are_refused(change: dict[str, Any]):
    views = ViewsConfig(**change)
    assert parse_weights("crop=1", views) == {"crop": 1.0}
    with pytest.raises(ConfigError) as caught:
        check_targets(["flip", "crop"], views, (16, 16))
    assert "none of 4,096 pairs of views of 16 x 16 pixels differs in it" in str(caught.value)
    assert "--views.crop-scale and --views.crop-ratio, or leave crop out" in str(caught.value)


def test_crops_that_are_the_same_in_small_pictures_are_predicted_in_large_ones():
    check_targets(["crop"], ViewsConfig(crop_scale=(0.9999, 1.0)), (400, 400))
