"""`viewfold awareness`: does an encoder know what was done to its images? AugSelf's own question (paper, section 4).

Heads like those of AugSelf learn, from the features of two views of an image by the frozen encoder, what their
parameters differ by; how well they do on held-out images is what the features still tell of it.
"""

import copy
import dataclasses
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from training import checkpoint
from training.augself import AUGMENTATIONS, AugSelf, difference_loss
from training.batches import Batches, epoch_order, step_seed
from training.checks import check_common, check_file, refuse_outside
from training.collapse import check_finite
from training.config import DataConfig, OptimConfig, absolute_paths
from training.data import instead_of
from training.device import describe, pick_device
from training.encoder import Encoder
from training.errors import ConfigError
from training.frozen import open_frozen
from training.json_files import write_json
from training.pool import load_pool
from training.pretrain_config import PretrainConfig, ViewsConfig
from training.pretrain_setup import read
from training.probe_config import AwarenessConfig
from training.progress import Progress, Stopwatch
from training.provenance import versions
from training.statistics import evenly_spaced
from training.view_differences import differs
from training.views import apply_views, check_views, draw_views

# to learn from, to choose each head's epoch by, to judge; images come again with other views where there are fewer
TRAIN_PAIRS, CHOOSE_PAIRS, HELD_PAIRS = 8000, 1000, 2000
EPOCHS, BATCH, LR, WEIGHT_DECAY = 20, 256, 1e-3, 1e-2  # of the heads: AdamW, cosine


@dataclass(frozen=True)
class Pairs:
    """What heads learn from: features of both views, (n, D) float32 each, and the targets by augmentation, (2n, …)."""

    first: Tensor
    second: Tensor
    targets: dict[str, Tensor]

    def __len__(self) -> int:
        return len(self.first)


def awareness(config: AwarenessConfig) -> dict[str, Any]:
    """Print, and return, how well the views' parameters can be told from an encoder's features.

    The settings are taken as they are; `defaults_of` gives those of the encoder. An augmentation that no pair of
    views differs in is left out, and so it says.

    Raises:
        TrainingError: the encoder, the settings or the images will not do.
    """
    progress, watch = Progress(), Stopwatch()
    data, views = config.data, config.views
    encoder, run = open_frozen(config.encoder.expanduser(), data)
    check_views(views, (run.problem.image.height, run.problem.image.width))
    check_file("--json", config.json)
    refuse_outside({"--seed": (config.seed, 0, 2**63 - 1)})
    check_common(data, OptimConfig())
    device = pick_device(config.device)
    pool = load_pool(data, unlabelled=config.unlabelled)
    images = read(pool, run.problem.image, data, device, progress)
    found = measure(encoder.to(device), images.train, images.val, views, seed=config.seed)
    result = {
        "encoder": str(config.encoder),
        "data": data.data,
        "views": dataclasses.asdict(views),
        "seed": config.seed,
        "scores": found,
        "pairs": HELD_PAIRS,
        "hardware": describe(device),
        "versions": versions(),
    }
    _tell(found, views, progress)
    progress.say(f"in {watch.seconds:.0f} s")
    if config.json is not None:
        write_json(config.json, result)
    return result


def _tell(found: dict[str, dict[str, Any]], views: ViewsConfig, progress: Progress) -> None:
    """A line an augmentation; after them what no pair of views differs in, though the settings let it vary."""
    for name, values in found.items():
        parts = "  ".join(f"{value:.3f}" for value in values["parts"])
        each = f"  ({parts})" if len(values["parts"]) > 1 else ""
        progress.say(f"  {name:<9} {values['what']:<9} {values['score']:.3f}{each}")
    for name in _varying(views):
        if name not in found:
            progress.say(f"  {name:<9} left out: {_never_differs([name])}")


def _varying(views: ViewsConfig) -> list[str]:
    """The augmentations that the settings let views differ in."""
    return [name for name, entry in AUGMENTATIONS.items() if entry.varies(views)]


def _never_differs(names: Sequence[str]) -> str:
    flags = " or ".join(AUGMENTATIONS[name].flags for name in names)
    return f"none of {HELD_PAIRS:,} pairs of views differs in {' or '.join(names)}; set {flags}"


def defaults_of(encoder: Path, name: str | None = None) -> AwarenessConfig:
    """The settings where nothing is given beside the encoder: the data and the views that it learnt from.

    name: of other data, where it is given; that is taken whole, and with its classes.

    Raises:
        CheckpointError: no run is there.
    """
    trained = checkpoint.open_any(encoder.expanduser()).config
    own = AwarenessConfig(encoder, trained.data)
    if isinstance(trained, PretrainConfig):
        own = dataclasses.replace(own, views=trained.views, unlabelled=trained.unlabelled)
    if name is None or absolute_paths(DataConfig(data=name)).data == own.data.data:
        return own
    return dataclasses.replace(own, data=instead_of(own.data, name, None), unlabelled=False)


def measure(
    encoder: Encoder, train: Batches, held: Batches, views: ViewsConfig, *, seed: int
) -> dict[str, dict[str, Any]]:
    """How well heads tell every augmentation that the views differ in, on held-out images, by its name.

    What no pair of views of the held-out images differs in is left out: nothing can be told of it.

    score: for numbers R², the share of their variance that is told (1 all, 0 none; below 0 worse than their mean),
    the mean over the parts; else the share of right answers, "accuracy". parts: of every number.

    Raises:
        ConfigError: the views do not differ in anything, or the features are not finite.
    """
    varying = _varying(views)
    if not varying:
        raise ConfigError("these views do not differ in anything; set some of --views.*")
    unknown = _pairs(encoder, varying, held, HELD_PAIRS, views, seed, "judge")
    asked = {name: 1.0 for name in varying if differs(unknown.targets[name])}
    if not asked:
        raise ConfigError(_never_differs(varying))
    known = _pairs(encoder, asked, train, TRAIN_PAIRS, views, seed, "learn")
    choosing = _pairs(encoder, asked, train, CHOOSE_PAIRS, views, seed, "choose")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        heads = AugSelf(encoder.num_features, asked, views).to(encoder.mean.device)
    for pairs in (known, choosing, unknown):
        check_finite(torch.cat([pairs.first, pairs.second]))
    mean, std = known.first.mean(0), known.first.std(0).clamp_min(1e-6)
    known, choosing, unknown = (_scaled(pairs, mean, std) for pairs in (known, choosing, unknown))
    _learn(heads, known, choosing, seed)
    return _score(heads, unknown)


@torch.inference_mode()
def _pairs(
    encoder: Encoder,
    asked: Iterable[str],
    batches: Batches,
    count: int,
    views: ViewsConfig,
    seed: int,
    purpose: str,
) -> Pairs:
    """Features of two views each of `count` images; where there are fewer, all of them again with other views.

    asked: the augmentations whose targets are wanted.
    """
    encoder.eval()
    device = encoder.mean.device
    places = evenly_spaced(len(batches), min(count, len(batches)))
    rounds = -(-count // len(places))
    order = places.repeat(rounds)[:count]
    generator = torch.Generator().manual_seed(step_seed(seed, 0, purpose))
    features: tuple[list[Tensor], list[Tensor]] = ([], [])
    targets: dict[str, list[Tensor]] = {name: [] for name in asked}
    for images, _ in batches.iterate(list(order.split(BATCH))):
        size = (images.shape[1], images.shape[2])
        first, second = (draw_views(len(images), size, views, generator) for _ in range(2))
        for kept, params in zip(features, (first, second), strict=True):
            pixels = 255 * apply_views(images, params, size=size)
            kept.append(encoder.backbone(encoder.normalised(pixels)).float())
        for name, entry in targets.items():
            entry.append(AUGMENTATIONS[name].target(first, second, views).to(device))
    return Pairs(
        torch.cat(features[0]),
        torch.cat(features[1]),
        {name: torch.cat(parts) for name, parts in targets.items()},
    )


def _scaled(pairs: Pairs, mean: Tensor, std: Tensor) -> Pairs:
    return Pairs((pairs.first - mean) / std, (pairs.second - mean) / std, pairs.targets)


def _losses(heads: AugSelf, pairs: Pairs, chosen: Tensor | slice) -> dict[str, Tensor]:
    """Every head's own loss, on some of the pairs, in one order of each."""
    first, second = pairs.first[chosen], pairs.second[chosen]
    return {
        name: AUGMENTATIONS[name].loss(head(first, second), pairs.targets[name][chosen])
        for name, head in heads.heads.items()
    }


def _learn(heads: AugSelf, pairs: Pairs, choosing: Pairs, seed: int) -> None:
    """Fit the heads. Each keeps its best epoch's weights on the choosing pairs: few images are soon learnt by heart."""
    best: dict[str, tuple[float, Any]] = {name: (math.inf, None) for name in heads.weights}
    optimizer = torch.optim.AdamW(heads.parameters(), lr=LR, weight_decay=WEIGHT_DECAY)
    steps = EPOCHS * max(1, len(pairs) // BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for epoch in range(EPOCHS):
        heads.train()
        for places in epoch_order(len(pairs), BATCH, seed=seed, epoch=epoch):
            losses = _losses(heads, pairs, places.to(pairs.first.device))
            optimizer.zero_grad()
            torch.stack(list(losses.values())).sum().backward()
            optimizer.step()
            schedule.step()
        heads.eval()
        with torch.no_grad():
            for name, loss in _losses(heads, choosing, slice(None)).items():
                if loss.item() < best[name][0]:
                    best[name] = loss.item(), copy.deepcopy(heads.heads[name].state_dict())
    for name, (_, state) in best.items():
        heads.heads[name].load_state_dict(state)


@torch.no_grad()
def _score(heads: AugSelf, pairs: Pairs) -> dict[str, dict[str, Any]]:
    heads.eval()
    scores = {}
    for name, head in heads.heads.items():
        assert isinstance(head, nn.Module)
        answer, target = head(pairs.first, pairs.second), pairs.targets[name]
        if AUGMENTATIONS[name].loss is difference_loss:
            missed = (answer.tanh() - target).square().mean(0)  # (k,)
            spread = target.var(0, correction=0)
            # a value that never differs (a hue that is not jittered) has nothing to tell
            parts = (1 - missed / spread)[spread > 0].tolist()
            what = "R²"
        else:
            guess = answer.argmax(1) if answer.shape[1] > 1 else (answer[:, 0] > 0).to(target.dtype)
            parts, what = [(guess == target).double().mean().item()], "accuracy"
        scores[name] = {"what": what, "score": sum(parts) / len(parts), "parts": parts}
    return scores
