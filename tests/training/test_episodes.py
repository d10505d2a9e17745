import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from torch import Tensor

from training import episodes as module
from training.episodes import _draw, _pools, episodes, solve
from training.errors import ConfigError


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def blobs(
    classes: int = 8, each: int = 20, d: int = 10, noise: float = 2.0
) -> tuple[Tensor, Tensor]:
    """Overlapping classes, their images in turn, with a mean that is not 0."""
    labels = torch.arange(classes * each) % classes
    centres = torch.randn(classes, d, generator=seeded(1))
    return centres[labels] + noise * torch.randn(len(labels), d, generator=seeded(2)) + 1, labels


def accuracy_by_sklearn(features: Tensor, episode: Tensor, shots: int) -> float:
    """One episode (ways, images) by liblinear, each class against the rest."""
    ways, images = episode.shape
    truth = np.arange(ways)
    learner = OneVsRestClassifier(
        LogisticRegression(solver="liblinear", tol=1e-10, max_iter=10_000)
    )
    learner.fit(features[episode[:, :shots].flatten()].double().numpy(), truth.repeat(shots))
    asked = features[episode[:, shots:].flatten()].double().numpy()
    return float((learner.predict(asked) == truth.repeat(images - shots)).mean())


@pytest.mark.parametrize(("shots", "scale"), [(1, 1.0), (5, 1.0), (5, 30.0)])
def test_episodes_are_those_of_liblinear_one_by_one(shots: int, scale: float):
    features, labels = blobs()
    features = features * scale
    drawn = _draw(_pools(labels, 5, shots + 6), 5, shots + 6, 30, seeded(4))
    expected = [accuracy_by_sklearn(features, episode, shots) for episode in drawn]
    found = episodes(features, labels, shots=shots, queries=6, count=30, seed=4)
    assert found.mean == pytest.approx(np.mean(expected), abs=1e-9)
    assert found.interval95 == pytest.approx(
        1.959964 * np.std(expected, ddof=1) / math.sqrt(30), rel=1e-6
    )
    assert found.n == 30
    assert found.converged


def test_solve_leaves_no_gradient_by_the_loop():
    images = torch.randn(6, 3, generator=seeded(), dtype=torch.float64) * 4
    signs = torch.tensor([[1.0, 1, 1, -1, -1, -1], [1, -1, 1, -1, 1, -1]], dtype=torch.float64)
    dual, converged = solve((images @ images.T)[None], signs)
    assert converged
    for y, alpha in zip(signs.tolist(), dual.tolist(), strict=True):
        theta = [
            sum(a * image[j] for a, image in zip(alpha, images.tolist(), strict=True))
            for j in range(3)
        ]
        gradient = list(theta)  # of ½ ‖θ‖²
        for sign, image in zip(y, images.tolist(), strict=True):
            fitted = sum(t * x for t, x in zip(theta, image, strict=True))
            for j in range(3):
                gradient[j] -= sign * image[j] / (1 + math.exp(sign * fitted))
        assert max(abs(entry) for entry in gradient) < 2e-4


def test_solve_of_two_opposite_points_is_the_closed_form():
    # θ = u on a line, points ±x of signs ±1: u (1 + exp(u x)) = 2 x; α = ±u / (2 x)
    x = 3.0
    points = torch.tensor([[x], [-x]], dtype=torch.float64)
    dual, _ = solve(points @ points.T, torch.tensor([1.0, -1.0], dtype=torch.float64))
    u = 2 * x * dual[0].item()
    assert dual[1].item() == pytest.approx(-dual[0].item())
    assert u * (1 + math.exp(u * x)) == pytest.approx(2 * x, abs=1e-3)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e3])
def test_solve_converges_for_features_of_any_size(scale: float):
    images = torch.randn(25, 40, generator=seeded(), dtype=torch.float64) * scale + scale
    signs = torch.ones(1, 25, dtype=torch.float64)
    signs[0, 5:] = -1
    dual, converged = solve((images @ images.T + 1)[None], signs)
    assert converged
    assert dual.isfinite().all()


def test_solve_shortens_steps_that_would_go_astray():
    generator = seeded()
    for _ in range(20):
        images = torch.randn(25, 40, generator=generator, dtype=torch.float64)
        images = 10 * images / torch.rand(25, 1, generator=generator, dtype=torch.float64) ** 2
        signs = torch.where(torch.arange(25) < 5, 1.0, -1.0).double()
        assert solve(images @ images.T + 1, signs)[1]


def test_what_was_not_solved_is_told(monkeypatch: pytest.MonkeyPatch):
    features, labels = blobs()
    beyond_float64 = episodes(features * 1e9, labels, shots=10, queries=6, count=10)
    assert not beyond_float64.converged
    assert math.isfinite(beyond_float64.mean)
    monkeypatch.setattr(module, "MOST_STEPS", 1)
    assert not episodes(features, labels, shots=5, queries=6, count=10).converged


def test_features_of_separate_classes_give_1_and_of_nothing_chance():
    labels = torch.arange(200) % 10
    separate = torch.eye(10)[labels] * 10
    found = episodes(separate, labels, count=50, queries=6)
    assert (found.mean, found.interval95) == (1, 0)
    noise = torch.randn(600, 16, generator=seeded())
    chance = episodes(noise, torch.arange(600) % 10, count=1000, queries=16)
    assert chance.mean == pytest.approx(0.2, abs=2 * chance.interval95)
    assert 0 < chance.interval95 < 0.01


def test_more_shots_are_better():
    features, labels = blobs()
    few, more = (episodes(features, labels, shots=s, queries=6, count=100).mean for s in (1, 10))
    assert more > few + 0.1


def test_the_same_seed_gives_the_same_episodes_and_another_one_others():
    features, labels = blobs()
    settings = {"queries": 6, "count": 40}
    first = episodes(features, labels, seed=1, **settings)
    assert episodes(features, labels, seed=1, **settings) == first
    assert episodes(features, labels, seed=2, **settings).mean != first.mean


def test_how_many_are_solved_at_once_changes_nothing(monkeypatch: pytest.MonkeyPatch):
    features, labels = blobs()
    whole = episodes(features, labels, shots=5, queries=6, count=30)
    monkeypatch.setattr(module, "AT_ONCE", 7)
    again = episodes(features, labels, shots=5, queries=6, count=30)
    assert again.mean == pytest.approx(whole.mean)


def test_a_rotation_of_the_features_changes_nothing_and_their_scale_does():
    features, labels = blobs()
    turn = torch.linalg.qr(torch.randn(10, 10, generator=seeded()))[0]
    settings = {"shots": 5, "queries": 6, "count": 60}
    plain = episodes(features, labels, **settings)
    assert episodes(features @ turn, labels, **settings).mean == pytest.approx(plain.mean, abs=1e-3)
    assert episodes(features * 0.01, labels, **settings).mean != plain.mean


def test_an_episode_has_no_class_and_no_image_twice():
    labels = torch.randint(0, 7, (200,), generator=seeded())
    drawn = _draw(_pools(labels, 4, 12), 4, 12, 300, seeded())
    assert drawn.shape == (300, 4, 12)
    assert all(len(set(episode)) == 48 for episode in drawn.flatten(1).tolist())
    classes = labels[drawn]  # (300, 4, 12)
    assert (classes == classes[..., :1]).all()
    assert all(len(set(episode)) == 4 for episode in classes[..., 0].tolist())


def test_every_image_is_as_likely_in_every_place():
    # 2 classes of 6 images, 4 taken: each image in each place in a sixth of the episodes
    drawn = _draw(_pools(torch.arange(12) % 2, 2, 4), 2, 4, 6000, seeded())
    for place in range(4):
        counts = drawn[:, :, place].flatten().bincount(minlength=12)
        error = math.sqrt(6000 * 1 / 6 * 5 / 6)
        assert (counts - 1000).abs().max() < 4.5 * error


def test_every_class_is_as_likely():
    labels = torch.arange(60) % 6
    drawn = labels[_draw(_pools(labels, 2, 3), 2, 3, 3000, seeded())[:, :, 0]]
    counts = drawn.flatten().bincount()
    assert (counts - 1000).abs().max() < 4.5 * math.sqrt(3000 * 1 / 3 * 2 / 3)


def test_classes_with_too_few_images_are_left_out_and_named():
    features, labels = blobs()
    short = torch.cat([labels, torch.tensor([8, 8, 10])])  # there is no class 9 at all
    more = torch.cat([features, torch.full((3, 10), 1e6)])
    settings = {"queries": 19, "count": 40}  # all 20 of a class
    found = episodes(more, short, **settings)
    assert found.left_out == (8, 10)
    assert found.mean == episodes(features, labels, **settings).mean


def test_too_few_classes_are_refused_with_their_number():
    features, labels = blobs(classes=4)
    with pytest.raises(ConfigError, match=r"need 5 classes of at least 17 images.*got 4 such"):
        episodes(features, labels)
    with pytest.raises(ConfigError, match=r"at least 21 images.*got 0 such"):
        episodes(*blobs(classes=8, each=20), shots=5)


@pytest.mark.parametrize("bad", [{"ways": 1}, {"shots": 0}, {"queries": 0}, {"count": 1}])
def test_numbers_that_tell_nothing_are_refused(bad: dict[str, int]):
    name, value = next(iter(bad.items()))
    with pytest.raises(ConfigError, match=f"{name} = {value} tells nothing"):
        episodes(*blobs(), **bad)


def test_features_that_are_not_finite_are_refused():
    features, labels = blobs()
    features[3] = math.nan
    with pytest.raises(ConfigError, match="1 of 160 images are not finite"):
        episodes(features, labels)
