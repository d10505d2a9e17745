"""A problem that every method can learn from in seconds: noisy copies of a few pictures, and a tiny backbone."""

import torch
from torch import Tensor, nn

from training.pretrain_config import MethodConfig
from training.ssl.method import Method, Pair
from training.ssl.methods import build_method

FEATURES, CLASSES = 16, 8
SMALL = {
    "simsiam": MethodConfig(hidden=32, projection=32),
    "simclr": MethodConfig(projection=16),
    "moco": MethodConfig(projection=16, momentum=0.9, queue=128),
    "byol": MethodConfig(hidden=32, projection=16, momentum=0.9),
    "swav": MethodConfig(hidden=32, projection=16, prototypes=8, freeze_steps=2),
    "supervised": MethodConfig(),
}


def alone(rows: Tensor) -> Tensor:
    """The gather of a single process."""
    return rows


def rows(b: int, d: int, *, seed: int = 0) -> Tensor:
    """Random float64 rows (b, d)."""
    return torch.randn(b, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def tiny_backbone(*, norm: bool = True) -> nn.Sequential:
    """Pictures (b, 3, 8, 8) to features (b, FEATURES)."""
    torch.manual_seed(0)
    middle = nn.BatchNorm1d(32) if norm else nn.Identity()
    return nn.Sequential(
        nn.Flatten(), nn.Linear(192, 32), middle, nn.ReLU(), nn.Linear(32, FEATURES)
    )


def pictures(b: int = 64) -> tuple[Pair, Tensor]:
    """Two noisy views of b pictures, each after one of CLASSES prototypes, and which. ((b, 3, 8, 8) twice, (b,))."""
    generator = torch.Generator().manual_seed(1)
    prototypes = torch.randn(CLASSES, 3, 8, 8, generator=generator)
    labels = torch.arange(b) % CLASSES
    own = prototypes[labels] + 0.5 * torch.randn(b, 3, 8, 8, generator=generator)
    first, second = (own + torch.randn(b, 3, 8, 8, generator=generator) for _ in range(2))
    return (first, second), labels


def small_method(name: str, backbone: nn.Module, *, batch_size: int = 64) -> Method:
    """The method at a size that fits the problem."""
    torch.manual_seed(0)
    return build_method(
        name,
        backbone,
        SMALL[name],
        num_features=FEATURES,
        num_classes=CLASSES,
        batch_size=batch_size,
    )


def ask(method: Method, backbone: nn.Module, views: Pair, labels: Tensor) -> Tensor:
    """The loss of one process."""
    loss: Tensor = method((backbone(views[0]), backbone(views[1])), views, labels, alone)
    return loss


def descend(name: str, steps: int = 30) -> tuple[list[float], nn.Module]:
    """The losses of so many steps on 64 pictures, by the order of the loop, and the backbone that came of it."""
    backbone = tiny_backbone()
    method = small_method(name, backbone)
    (views, labels), losses = pictures(), []
    parameters = [p for p in (*backbone.parameters(), *method.parameters()) if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=0.1, momentum=0.9)
    for step in range(steps):
        loss = ask(method, backbone, views, labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        for parameter in method.frozen(step):
            parameter.grad = None
        optimizer.step()
        method.update(backbone, step, steps)
        losses.append(loss.item())
    return losses, backbone


def found_classes(backbone: nn.Module) -> float:
    """The share of pictures whose nearest other picture, by the cosine of their features, is of the same prototype."""
    views, labels = pictures()
    backbone.eval()
    with torch.no_grad():
        features = nn.functional.normalize(backbone(views[0]) - backbone(views[0]).mean(0), dim=1)
    scores = (features @ features.T).fill_diagonal_(-1)
    return (labels[scores.argmax(1)] == labels).double().mean().item()
