"""How far a run has come: with its weights and its optimiser all of its state."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from training.evaluate import Metrics


@dataclass
class Position:
    """How far a run has come. losses: the sums over this epoch's steps so far, before the first of them none."""

    step: int = 0
    losses: list[float] = field(default_factory=list)
    seconds: float = 0.0
    best_epoch: int | None = None
    best_top1: float = -1.0
    best_nll: float = math.inf

    def improved_by(self, metrics: Metrics) -> bool:
        """Whether these validation metrics are better: a higher top-1, or the same with a lower NLL."""
        return (metrics.top1, -metrics.nll) > (self.best_top1, -self.best_nll)


def from_state(state: Mapping[str, Any]) -> Position:
    """The position that a checkpoint's state.json holds; older ones hold one sum of losses, zero between epochs."""
    values = dict(state)
    older = values.pop("epoch_loss", 0.0)
    return Position(**({"losses": [older] if older else []} | values))
