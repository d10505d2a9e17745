"""Training speed against straightforward loops of the same arithmetic: `python -m benchmarks.training_speed`.

ResNet-32, batch 128, M = 4 rotations, SLA with self-distillation. The straightforward loops are written here
from the equations: fp32, the usual memory layout, the images in memory ("resident"), or read as Pillow
pictures by a DataLoader ("loader", on a GPU only). Steps alternate; the medians are compared. The last line is
RATIO x: the seconds of a resident step over those of one of ours, compiled as a run of the paper's 80,000
steps is where there is a compiler. Writes benchmarks/results/training_speed.json.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
from torchvision import transforms
from torchvision.transforms.functional import to_pil_image

from serving.images import ImageSpec
from training.checkpoint import Problem, Run, build_network
from training.config import AugmentConfig, OptimConfig, TrainConfig
from training.device import describe, pick_compile, pick_device
from training.devices import Team
from training.json_files import write_json
from training.network import Network
from training.provenance import versions
from training.step import Learner, set_up, train_step

RESULTS = Path(__file__).parent / "results"
M, CLASSES, SIDE, PADDING = 4, 10, 32, 4
STEPS = 80_000
CONFIG = TrainConfig(
    objective="sla-sd",
    transformations="rotation",
    backbone="resnet32",
    batch_size=128,
    optim=OptimConfig(lr=0.1, schedule="constant", warmup=0.0),
    augment=AugmentConfig(flip="on"),
)
PROBLEM = Problem(
    classes=tuple(str(k) for k in range(CLASSES)),
    image=ImageSpec(SIDE, SIDE),
    mean=(127.5, 127.5, 127.5),
    std=(127.5, 127.5, 127.5),
    crop_padding_px=PADDING,
    flip=True,
    counts=(0, 0, 0),
    versions={},
)
Step = Callable[[int], Tensor]


def main() -> None:
    """Measure, write the results, print the ratio."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--steps", type=int, default=12, help="steps of each loop")
    parser.add_argument("--batch-size", type=int, default=CONFIG.batch_size)
    parser.add_argument("--compile", choices=("auto", "off"), default="auto")
    parser.add_argument("--out", type=Path, default=RESULTS / "training_speed.json")
    settings = parser.parse_args()
    config = replace(CONFIG, batch_size=settings.batch_size, compile=settings.compile)
    content = measure(config, pick_device(settings.device), settings.steps)
    write_json(settings.out, content)
    for name, loop in content["loops"].items():
        print(
            f"{name:<18} {1000 * loop['median_s']:9.1f} ms a step, {loop['images_per_s']:9,.0f} images/s"
        )
    if "loader" in content["ratio"]:
        print(f"beside the usual loop (loader): {content['ratio']['loader']:.2f}x")
    print(f"RATIO {content['ratio']['resident']:.2f}x")


def measure(config: TrainConfig, device: torch.device, steps: int) -> dict[str, Any]:
    """The seconds a step of every loop, alternately, after two steps each that do not count."""
    generator = torch.Generator().manual_seed(0)
    batch_size = config.batch_size
    count = 4 * batch_size
    images = torch.randint(0, 256, (count, SIDE, SIDE, 3), generator=generator).to(torch.uint8)
    labels = torch.randint(CLASSES, (count,), generator=generator)
    config = replace(config, compile="on" if pick_compile(config, STEPS) else "off")
    difference = loss_difference(config, images[:batch_size], labels[:batch_size])
    loops: dict[str, Step] = {
        "resident": resident(config, images.to(device), labels.to(device)),
        "ours": ours(config, images.to(device), labels.to(device), device),
        "ours, not compiled": ours(
            replace(config, compile="off"), images.to(device), labels.to(device), device
        ),
    }
    if device.type == "cuda":
        loops["loader"] = loader(config, images, labels, device)
    seconds: dict[str, list[float]] = {name: [] for name in loops}
    for number in range(steps + 2):
        for name, step in loops.items():
            seconds[name].append(timed(step, number, device))
    medians = {name: statistics.median(values[2:]) for name, values in seconds.items()}
    return {
        "command": "python -m benchmarks.training_speed",
        "what": "ResNet-32, M = 4 rotations, SLA with self-distillation",
        "batch_size": batch_size,
        "n": steps,
        "hardware": describe(device),
        "versions": versions(),
        "compiled": config.compile,
        "loss_difference_fp32": difference,
        "loops": {
            name: {
                "median_s": medians[name],
                "min_s": min(values[2:]),
                "max_s": max(values[2:]),
                "images_per_s": batch_size / medians[name],
            }
            for name, values in seconds.items()
        },
        "ratio": {
            name: medians[name] / medians["ours"] for name in loops if not name.startswith("ours")
        },
    }


def timed(step: Step, number: int, device: torch.device) -> float:
    """Seconds of one step, of all of its work on the device."""
    start = time.perf_counter()
    step(number)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def ours(config: TrainConfig, images: Tensor, labels: Tensor, device: torch.device) -> Step:
    """A step of `viewfold train`."""
    learner = learner_of(config, device)

    def step(number: int) -> Tensor:
        chosen = places(number, len(images), config.batch_size).to(device)
        return train_step(learner, images[chosen], labels[chosen], number, 1000)

    return step


def learner_of(config: TrainConfig, device: torch.device) -> Learner:
    """What a step needs, without a run on disk."""
    learner = set_up(Run(Path(), config, PROBLEM), Team(device))
    learner.module.train()
    return learner


def resident(config: TrainConfig, images: Tensor, labels: Tensor) -> Step:
    """A straightforward step in fp32 on uint8 images (n, H, W, 3) in memory."""
    network, optimizer = plain_network(config, images.device)

    def step(number: int) -> Tensor:
        chosen = places(number, len(images), config.batch_size).to(images.device)
        pixels = images[chosen].permute(0, 3, 1, 2).float() / 127.5 - 1  # (B, 3, H, W)
        return plain_step(network, optimizer, crops_and_flips(pixels.contiguous()), labels[chosen])

    return step


def loader(config: TrainConfig, images: Tensor, labels: Tensor, device: torch.device) -> Step:
    """The usual step: Pillow pictures, torchvision's transforms in worker processes, fp32."""
    network, optimizer = plain_network(config, device)
    augment = transforms.Compose(
        [
            transforms.RandomCrop(SIDE, padding=PADDING),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        ]
    )
    pictures = [to_pil_image(image.permute(2, 0, 1)) for image in images]

    def collate(rows: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        at = [int(row[0]) for row in rows]
        return torch.stack([augment(pictures[k]) for k in at]), torch.stack([r[1] for r in rows])

    data = TensorDataset(torch.arange(len(images)), labels)
    batches = endless(
        DataLoader(
            data, config.batch_size, shuffle=True, num_workers=8, drop_last=True, collate_fn=collate
        )
    )

    def step(number: int) -> Tensor:
        pixels, targets = next(batches)
        return plain_step(network, optimizer, pixels.to(device), targets.to(device))

    return step


def endless(batches: DataLoader[Any]) -> Iterator[Any]:
    """Epoch after epoch."""
    while True:
        yield from batches


def plain_network(config: TrainConfig, device: torch.device) -> tuple[Network, torch.optim.SGD]:
    """The same network from the same seed, in the usual memory layout, and its optimiser."""
    torch.manual_seed(config.seed)
    network = build_network(config, PROBLEM).to(device).train()
    optimizer = torch.optim.SGD(
        network.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True
    )
    return network, optimizer


def plain_step(
    network: Network, optimizer: torch.optim.Optimizer, pixels: Tensor, labels: Tensor
) -> Tensor:
    """L_SLA + KL(aggregated || single) + CE(single, y), as the paper writes it. pixels: (B, 3, H, W) float."""
    loss = plain_loss(network, pixels, labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss


def plain_loss(network: Network, pixels: Tensor, labels: Tensor) -> Tensor:
    """The loss of normalised pixels (B, 3, H, W). Returns a scalar."""
    assert network.class_head is not None
    assert network.joint_head is not None
    copies = [torch.rot90(pixels, k, (2, 3)) for k in range(M)]
    features = network.backbone(torch.stack(copies, 1).flatten(0, 1))  # (B * M, D)
    joint = network.joint_head(features)  # (B * M, N * M)
    joint_labels = torch.stack([labels * M + j for j in range(M)], 1).flatten()
    single = network.class_head(features[::M])
    tables = joint.view(-1, M, CLASSES, M)
    aggregated = torch.stack([tables[:, j, :, j] for j in range(M)]).mean(0)
    teacher = aggregated.detach().softmax(1)
    return (
        F.cross_entropy(joint, joint_labels)
        + F.kl_div(single.log_softmax(1), teacher, reduction="batchmean")
        + F.cross_entropy(single, labels)
    )


def crops_and_flips(pixels: Tensor) -> Tensor:
    """Random crops and flips, image by image. pixels: (B, 3, H, W)."""
    padded = F.pad(pixels, (PADDING,) * 4, value=-1.0)
    out = []
    for image in padded:
        y, x = torch.randint(0, 2 * PADDING + 1, (2,)).tolist()
        window = image[:, y : y + SIDE, x : x + SIDE]
        out.append(window.flip(2) if torch.rand(()) < 0.5 else window)
    return torch.stack(out)


def places(number: int, count: int, batch_size: int) -> Tensor:
    """The images of a step."""
    return (torch.arange(batch_size) + number * batch_size) % count


def loss_difference(config: TrainConfig, images: Tensor, labels: Tensor) -> float:
    """How far the first loss of both loops is apart in fp32 on the same pixels: the same arithmetic.

    Raises:
        RuntimeError: they are not the same arithmetic.
    """
    exact = replace(config, precision="fp32", compile="off")
    problem = replace(PROBLEM, crop_padding_px=0, flip=False)
    learner = set_up(Run(Path(), exact, problem), Team(torch.device("cpu")))
    learner.module.train()
    network, _ = plain_network(config, torch.device("cpu"))
    pixels = images.permute(0, 3, 1, 2).float() / 127.5 - 1
    theirs = plain_loss(network, pixels, labels)
    difference = abs(train_step(learner, images, labels, 0, 1000).item() - theirs.item())
    if difference > 1e-3:
        raise RuntimeError(f"the loops' first losses differ by {difference}")
    return difference


if __name__ == "__main__":
    main()
