"""What a bundle's modes are worth on images that were served: the numbers of its manifest."""

import dataclasses
from collections.abc import Mapping

import torch
from torch import Tensor

from serving import escalation
from serving.manifest import AUTO, Manifest
from training.evaluate import Metrics, metrics


def measured(manifest: Manifest, served: Mapping[str, Tensor], labels: Tensor) -> Manifest:
    """The manifest with the metrics of every mode on the images that were served."""
    modes = {
        mode: dataclasses.replace(value, metrics=_numbers(metrics(served[mode], labels)))
        for mode, value in manifest.modes.items()
    }
    auto = manifest.auto
    if auto is not None:
        doubt = doubted(manifest, served[auto.first])
        cost = {
            "forward_passes": float(escalation.passes(manifest, doubt.numpy()).mean()),
            "escalation_rate": doubt.double().mean().item(),
        }
        auto = dataclasses.replace(auto, metrics=_numbers(metrics(served[AUTO], labels)) | cost)
    return dataclasses.replace(manifest, modes=modes, auto=auto)


def doubted(manifest: Manifest, first: Tensor) -> Tensor:
    """Which images `auto` has in doubt, (n,) bool. first: what its first pass says of them, (n, N)."""
    assert manifest.auto is not None
    return torch.from_numpy(escalation.in_doubt(first.numpy(), manifest.auto.threshold))


def _numbers(measured: Metrics) -> dict[str, float]:
    """The metrics for the manifest, less those that these classes do not have."""
    values = dataclasses.asdict(measured)
    return {name: value for name, value in values.items() if value is not None}
