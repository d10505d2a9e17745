"""Features of images by a frozen encoder."""

import torch
from torch import Tensor

from training.batches import Batches
from training.encoder import Encoder


@torch.inference_mode()
def features_of(
    encoder: Encoder, batches: Batches, *, batch_size: int, places: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """(features (n, D) float32, labels (n,) int64) on the CPU. The encoder is left in evaluation mode.

    batch_size: images at a time, as `images_at_once` says. places: (n,) int64, of the images that are asked for;
    None: of all of them.
    """
    encoder.eval()
    chosen = torch.arange(len(batches)) if places is None else places
    features, labels = [], []
    for images, targets in batches.iterate(list(chosen.split(batch_size))):
        features.append(encoder(images).float().cpu())
        labels.append(targets.cpu())
    return torch.cat(features), torch.cat(labels)
