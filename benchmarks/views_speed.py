"""What a view costs beside the network that looks at it: `python -m benchmarks.views_speed`.

A batch of 256 pictures of 96 x 96 px, ResNet-18. In turns: the parameters of one view of every picture are drawn and
the views made, then the backbone's forward pass over them as in training; of every turn the seconds of the first are
divided by those of the second. Writes benchmarks/results/views_speed.json, a section a device.
"""

import argparse
import dataclasses
import json
import statistics
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.augself import EXPERIMENTS
from benchmarks.augself_speed import WARM_UP, ratios
from benchmarks.training_speed import PROBLEM, RESULTS, timed
from serving.images import ImageSpec
from training.checkpoint import Run
from training.config import DataConfig
from training.device import describe, pick_device
from training.devices import Team
from training.json_files import write_json
from training.pretrain_config import PretrainConfig
from training.pretrain_step import set_up
from training.provenance import versions
from training.views import apply_views, draw_views

RECIPE = dataclasses.replace(EXPERIMENTS["augself"].rows["simsiam"], data=DataConfig(image_size=96))


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--turns", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=RECIPE.batch_size)
    parser.add_argument("--out", type=Path, default=RESULTS / "views_speed.json")
    settings = parser.parse_args()
    device = pick_device(settings.device)
    config = dataclasses.replace(RECIPE, batch_size=settings.batch_size)
    found = measure(config, device, settings.turns)
    content = json.loads(settings.out.read_text()) if settings.out.is_file() else {}
    content[device.type] = {"command": "python -m benchmarks.views_speed", **found}
    write_json(settings.out, content)
    low, high = found["ratio"]["quartiles"]
    print(f"{found['ratio']['median']:.3f} x the forward pass ({low:.3f} to {high:.3f})")


def measure(config: PretrainConfig, device: torch.device, turns: int) -> dict[str, Any]:
    """The seconds of the views and of the forward pass over them, and the ratios of each turn."""
    side = config.data.image_size
    assert side is not None
    size = (side, side)
    generator = torch.Generator().manual_seed(0)
    # noise: what either takes does not depend on the pictures
    pixels = torch.randint(0, 256, (config.batch_size, *size, 3), generator=generator)
    images = pixels.to(torch.uint8).to(device)
    problem = dataclasses.replace(PROBLEM, image=ImageSpec(*size))
    learner = set_up(Run(Path(), config, problem), Team(device))
    encoder = learner.network.encoder.train()

    def views(number: int) -> Tensor:
        drawn = draw_views(len(images), size, config.views, torch.Generator().manual_seed(number))
        return 255 * apply_views(images, drawn, size=size)

    seen = views(0)

    def forward(number: int) -> Tensor:
        with learner.fabric.autocast():
            features: Tensor = encoder.backbone(encoder.normalised(seen))
        return features

    taken = [(timed(views, n, device), timed(forward, n, device)) for n in range(turns + WARM_UP)]
    views_s, forward_s = (list(values) for values in zip(*taken[WARM_UP:], strict=True))
    return {
        "what": f"{config.backbone}, {side} x {side}, batch {config.batch_size}",
        "turns": turns,
        "hardware": describe(device),
        "versions": versions(),
        "views_s": statistics.median(views_s),
        "forward_s": statistics.median(forward_s),
        "ratio": ratios(views_s, forward_s),
    }


if __name__ == "__main__":
    main()
