"""Settings of pretraining that cannot work are refused here, before any data is read: a sentence with the flag."""

from training import optim
from training.augself import parse_weights
from training.backbones import default_image_size
from training.checks import check_common, check_optimiser, refuse_outside
from training.errors import ConfigError
from training.pretrain_config import PretrainConfig
from training.ssl.methods import check_method
from training.views import check_views


def check_settings(config: PretrainConfig) -> None:
    """Refuse settings that cannot work, before any data is read.

    Raises:
        ConfigError: an unknown name or a number out of its range.
    """
    refuse_outside(
        {
            "--epochs": (config.epochs, 1, float("inf")),
            "--batch-size": (config.batch_size, 2, float("inf")),
            "--devices": (1 if config.devices is None else config.devices, 1, float("inf")),
            "--seed": (config.seed, 0, 2**63 - 1),  # what torch takes
        }
    )
    check_rows(config.batch_size, config.devices or 1)
    check_method(config.method, config.settings, config.batch_size)
    size = config.data.image_size
    check_views(config.views, (size or 1, size or 1))
    parse_weights(config.augself, config.views)
    default_image_size(config.backbone)
    optim.learning_rate(0, 1, config.optim)
    check_common(config.data, config.optim)
    check_optimiser(config.optim, PretrainConfig().optim)
    if config.optim.backbone_lr_factor is not None:
        raise ConfigError(
            "--optim.backbone-lr-factor is for fine-tuning: here the backbone is what learns; leave it out"
        )


def check_rows(batch_size: int, processes: int) -> None:
    """Refuse to share a batch among so many processes that one has too few images for BatchNorm.

    Raises:
        ConfigError: fewer than two.
    """
    share = batch_size // processes
    if share < 2:
        images = "1 image" if share == 1 else f"{share} images"
        raise ConfigError(
            f"--batch-size {batch_size} leaves {images} to each of {processes} processes; "
            "BatchNorm needs at least 2, and the methods are meant for 256"
        )
