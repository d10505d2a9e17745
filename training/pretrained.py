"""What a backbone starts from: timm's pretrained weights, a file's, or those of another run. Only at the start.

A run that goes on, is evaluated or is exported reads its own checkpoint and needs none of this.
"""

import hashlib
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from training import checkpoint, data
from training.backbones import TIMM, create_timm, default_image_size
from training.checkpoint import Run
from training.config import DataConfig, TrainConfig
from training.errors import ConfigError, WeightsError
from training.pretrain_config import PretrainConfig
from training.weights import first_line, fit, read_file, some

LR_FACTOR = 0.1  # of the backbone's learning rate to the heads', unless --optim.backbone-lr-factor says another


@dataclass(frozen=True)
class Start:
    """What a backbone starts from.

    tensors: its whole state. mean, std: what the weights were trained to see the pixels less of and divided
    by, in units of uint8 pixels; None where nobody says, and the data's own are taken.
    provenance: where from and under which licence. left_out: what else was there. image_size: (H, W) pixels that
    a run's weights learnt at; None where nobody says. run: the run whose weights they are; None: a file's, or timm's.
    """

    tensors: dict[str, Tensor]
    provenance: dict[str, Any]
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    left_out: tuple[str, ...] = ()
    image_size: tuple[int, int] | None = None
    run: Run[Any] | None = None

    def describe(self, image_size: tuple[int, int]) -> str:
        """How many tensors from where, which were left out, and whether they learnt at another size than (H, W)."""
        source = self.provenance.get("model") or self.provenance.get("file")
        rest = f", {len(self.left_out)} left out ({some(self.left_out)})" if self.left_out else ""
        line = f"the backbone starts from {source}: {len(self.tensors)} tensors taken{rest}"
        if self.image_size in (None, image_size):
            return line
        theirs, ours = (f"{height} x {width}" for height, width in (self.image_size, image_size))
        return f"{line}\nthey learnt at {theirs} pixels, and are trained on at {ours}"


def check_flags(config: TrainConfig) -> None:
    """Refuse --pretrained and --weights where they cannot work, before any data is read.

    Raises:
        ConfigError: both are given, or the backbone has no pretrained weights.
        WeightsError: there is no such file.
    """
    if config.pretrained and config.weights is not None:
        raise ConfigError("--pretrained and --weights are both given; a backbone starts from one")
    if config.pretrained and not config.backbone.startswith(TIMM):
        raise ConfigError(
            f"--pretrained with {config.backbone}, which has no published weights; "
            f"choose a {TIMM}<name>, or give --weights FILE"
        )
    if config.pretrained and not _has_weights(config.backbone):
        raise ConfigError(f"timm has no pretrained weights for {config.backbone}; leave it out")
    if config.weights is not None and not config.weights.expanduser().exists():
        raise WeightsError(f"--weights {config.weights} does not exist")


def backbone_lr_factor(config: TrainConfig) -> float:
    """What the backbone's learning rate is multiplied by: as asked, else 0.1 from pretrained weights, else 1."""
    if config.optim.backbone_lr_factor is not None:
        return config.optim.backbone_lr_factor
    return LR_FACTOR if config.pretrained or config.weights is not None else 1.0


def defaults_of(config: TrainConfig) -> TrainConfig:
    """The settings where nothing is given beside --weights: a run's backbone and image size, where it names a run.

    Raises:
        CheckpointError: they are of a run that is damaged.
    """
    source = None if config.weights is None else run_named_by(config.weights.expanduser())
    if source is None:
        return TrainConfig()
    run = checkpoint.open_any(source[0])
    image = run.problem.image
    side = image.height if image.height == image.width else None
    return TrainConfig(data=DataConfig(image_size=side), backbone=run.config.backbone)


def read_start(config: TrainConfig, image_size: tuple[int, int]) -> Start | None:
    """What the settings say that the backbone starts from; None: random weights. image_size: (H, W) pixels.

    Raises:
        WeightsError: the weights cannot be fetched or read, or are not of this backbone.
        CheckpointError: they are of a run that is damaged.
    """
    if config.pretrained:
        return _published(config.backbone, image_size)
    if config.weights is None:
        return None
    path = config.weights.expanduser()
    source = run_named_by(path)
    if source is None:
        return _of_file(config.backbone, path, image_size)
    return _of_run(config.backbone, *source, image_size)


def run_named_by(path: Path) -> tuple[Path, str] | None:
    """(the run, which of its checkpoints) that a path names: a folder, or weights within a run. None: a file."""
    if path.is_dir():
        return path, "best"
    folder = path.parent.parent
    within = path.name == "weights.safetensors" and _is_run(folder)
    return (folder, path.parent.name) if within else None


def _published(backbone: str, image_size: tuple[int, int]) -> Start:
    """timm's, by its own means: from the hub, or from the hub's cache. Normalised as timm's configuration says."""
    with _quiet("huggingface_hub", "timm.models._builder"):
        try:
            network = create_timm(backbone, image_size, pretrained=True)
        except ConfigError:
            raise
        except (
            Exception
        ) as error:  # the hub, its HTTP client and the file may each fail in ways of their own
            raise WeightsError(
                f"the pretrained weights of {backbone} cannot be fetched ({first_line(error)}); "
                "without a network, give a file of weights with --weights FILE"
            ) from error
    published = _timm_cfg(backbone)
    facts = ("license", "origin_url", "hf_hub_id", "url", "paper_ids", "tag")
    known = {key: getattr(published, key) for key in facts if getattr(published, key)}
    licence = known.pop("license", "unknown")
    provenance = {"source": "timm", "model": backbone, "licence": licence, **known}
    return Start(network.state_dict(), provenance, *_normalisation(backbone))


def _of_run(backbone: str, folder: Path, which: str, image_size: tuple[int, int]) -> Start:
    """Another run's backbone, with the normalisation that it was trained under."""
    run = checkpoint.open_any(folder)
    given, _ = checkpoint.read(folder / which, "weights")
    tensors, left_out = fit(backbone, given, image_size, f"{folder} ({run.config.backbone})")
    size = (run.problem.image.height, run.problem.image.width)
    return Start(tensors, provenance_of(run, which), *_networks_own(given), left_out, size, run)


def provenance_of(run: Run[Any], which: str) -> dict[str, Any]:
    """What a run or a bundle says of weights that it took from another run. which: best or last."""
    return {
        "source": "viewfold",
        "model": f"{run.folder.resolve().name}/{which}",
        **_learnt_by(run.config),
        "backbone": run.config.backbone,
        "data": data.bare_name(run.config.data.data),
        "seed": run.config.seed,
        "versions": run.problem.versions,
        "licence": "that of its data and of its own pretrained weights",
        "pretrained_weights": run.problem.pretrained_weights,
    }


def _learnt_by(config: TrainConfig | PretrainConfig) -> dict[str, str]:
    """What the weights were trained for, for their provenance."""
    if isinstance(config, TrainConfig):
        return {"objective": config.objective}
    return {"method": config.method, "augself": config.augself}


def _of_file(backbone: str, path: Path, image_size: tuple[int, int]) -> Start:
    """A file's, normalised as it says if it is of a run, else as timm's published weights of that model are."""
    given = read_file(path)
    tensors, left_out = fit(backbone, given, image_size, str(path))
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    provenance = {"source": "file", "file": path.name, "sha256": digest, "licence": "unknown"}
    seen = _networks_own(given) if {"mean", "std"} <= given.keys() else _normalisation(backbone)
    return Start(tensors, provenance, *seen, left_out)


def _networks_own(given: Mapping[str, Any]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(mean, std) as a network of ours keeps them beside its weights."""
    mean, std = (tuple(given[key].flatten().tolist()) for key in ("mean", "std"))
    return mean, std


def _normalisation(
    backbone: str,
) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
    """(mean, std) in units of uint8 pixels, of timm's published weights of that backbone."""
    published = _timm_cfg(backbone) if backbone.startswith(TIMM) else None
    if published is None:
        return None, None
    return tuple(255 * v for v in published.mean), tuple(255 * v for v in published.std)


def _has_weights(backbone: str) -> bool:
    default_image_size(backbone)  # refuses a name that timm does not know
    published = _timm_cfg(backbone)
    return bool(published is not None and published.has_weights)


def _timm_cfg(backbone: str) -> Any:
    import timm

    return timm.get_pretrained_cfg(backbone.removeprefix(TIMM), allow_unregistered=False)


def _is_run(folder: Path) -> bool:
    return (folder / "config.json").is_file()


@contextmanager
def _quiet(*names: str) -> Iterator[None]:
    """Leave the lines out that others log about what is said here in one sentence."""
    loggers = [logging.getLogger(name) for name in names]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
