"""What can go wrong for a reason that the user can mend.

TrainingError
├── ConfigError        a setting that is unknown, or that does not fit another one
├── DataError          images or labels that cannot be trained on
├── CheckpointError    a run folder or a checkpoint that is missing, incomplete or altered
├── WeightsError       pretrained weights that cannot be fetched or read, or are of another network
└── DivergedError      the loss is no longer a finite number
"""


class TrainingError(Exception):
    """The root: the message says what was wrong, what was got and what to do."""


class ConfigError(TrainingError):
    """A setting that is unknown, or that does not fit another one."""


class DataError(TrainingError):
    """Images or labels that cannot be trained on."""


class CheckpointError(TrainingError):
    """A run folder or a checkpoint that is missing, incomplete or altered."""


class WeightsError(TrainingError):
    """Pretrained weights that cannot be fetched or read, or are of another network."""


class DivergedError(TrainingError):
    """The loss is no longer a finite number."""
