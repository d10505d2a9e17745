"""What a bundle says of itself: the manifest's fields, and which manifests cannot be. Standard library only.

Reading and writing its text is serving/bundle.py's work.
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

INPUT = "images"  # of every graph
PROBABILITIES, EMBEDDINGS = "probabilities", "embeddings"
VOTES, COPIES = "per_transformation", "copies"  # of graphs that look at all transformed copies
IDENTITY_LOGITS = "identity_logits"  # what the first pass gives to the rest of `auto`
AGGREGATED, AUTO = "aggregated", "auto"  # modes: all M copies; all M where one pass leaves doubt
AUTO_REST = "auto_rest"  # the graph of the other M - 1 copies
ANSWERS = {"classify": PROBABILITIES, "embed": EMBEDDINGS}  # task -> the output that answers


@dataclass(frozen=True)
class Tensor:
    """An input or an output of a graph; None in the shape is the batch axis, which is free."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]


@dataclass(frozen=True)
class Mode:
    """One way of answering: a graph, what goes in and out of it, and what it was measured to be worth."""

    file: str
    sha256: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    forward_passes: int
    precision: str
    temperature: float
    metrics: dict[str, float]


@dataclass(frozen=True)
class Auto:
    """The mode `auto`: one pass for every image, the other copies where it leaves doubt (serving/escalation.py).

    first: the mode of that pass. rest: the graph of the other copies, which takes the identity's logits from the
    first pass; None where the mode `aggregated` is run whole, by a network of its own. threshold: the confidence at
    or below which an image is in doubt. escalation_rate, forward_passes: the share of images in doubt and the mean
    passes of an image on the data of `calibration`; metrics: on the split that every mode is measured on.
    """

    first: str
    rest: Mode | None
    threshold: float
    escalation_rate: float
    forward_passes: float
    metrics: dict[str, float]
    calibration: dict[str, Any]


@dataclass(frozen=True)
class Manifest:
    """What a bundle says of itself; docs/bundle.md describes every field."""

    name: str
    task: str
    classes: tuple[str, ...]
    image: dict[str, Any]
    transformations: tuple[str, ...]
    modes: dict[str, Mode]
    default_mode: str
    parity: dict[str, Any]
    provenance: dict[str, Any]
    weights: dict[str, str] = dataclasses.field(
        default_factory=dict
    )  # external data that the graphs share: file -> sha256
    samples: dict[str, str] = dataclasses.field(
        default_factory=dict
    )  # example images, samples/LABEL.png: file -> sha256
    auto: Auto | None = None
    calibration: dict[str, Any] = dataclasses.field(
        default_factory=dict
    )  # what the temperatures were fitted on; empty of an encoder
    precision: dict[str, Any] = dataclasses.field(
        default_factory=dict
    )  # what it cost that the graphs are not in fp32; empty where they are

    @property
    def mode_names(self) -> tuple[str, ...]:
        """Every mode that may be asked for, `auto` included."""
        return tuple(self.modes) if self.auto is None else (*self.modes, AUTO)

    @property
    def graphs(self) -> dict[str, Mode]:
        """Every graph by name: one a mode, and the rest of `auto` where it has a graph of its own."""
        rest = None if self.auto is None else self.auto.rest
        return self.modes if rest is None else {**self.modes, AUTO_REST: rest}

    @property
    def answer(self) -> Tensor:
        """What every mode answers with: probabilities (B, N) or embeddings (B, D)."""
        mode = next(iter(self.modes.values()))
        return {tensor.name: tensor for tensor in mode.outputs}[ANSWERS[self.task]]

    @property
    def dimensions(self) -> int | None:
        """How many numbers an embedding has (D); None where the bundle answers with classes."""
        return self.answer.shape[1] if self.task == "embed" else None


def check(manifest: Manifest) -> None:
    """Refuse a manifest whose fields contradict each other.

    Raises:
        ValueError: which of them, and how.
    """
    if not manifest.modes or manifest.default_mode not in manifest.mode_names:
        raise ValueError(
            f"default_mode {manifest.default_mode!r} is not one of the modes {sorted(manifest.mode_names)}"
        )
    _check_task(manifest)
    _check_auto(manifest)
    for name, graph in manifest.graphs.items():
        _check_graph(manifest, name, graph)


def _check_graph(manifest: Manifest, name: str, graph: Mode) -> None:
    """Raise ValueError where a graph's numbers cannot be, or it makes other copies than the manifest names."""
    if graph.forward_passes < 1 or not 0 < graph.temperature < math.inf:
        raise ValueError(
            f"{name!r} takes {graph.forward_passes} passes at temperature {graph.temperature}"
        )
    copies = len(manifest.transformations)
    for tensor in graph.outputs:
        if tensor.name in (VOTES, COPIES) and tensor.shape[1:2] != (copies,):
            raise ValueError(
                f"{name!r} gives {tensor.name!r} of the shape {tensor.shape}, and there are "
                f"{copies} transformations"
            )


def _check_task(manifest: Manifest) -> None:
    """Raise ValueError where the manifest mixes tasks: an encoder with classes, a classifier's graph that embeds."""
    task = manifest.task
    if task not in ANSWERS:
        raise ValueError(f"task {task!r} is not one of {list(ANSWERS)}")
    if task == "classify" and not manifest.classes:
        raise ValueError("there are no classes")
    if task == "embed" and (manifest.classes or manifest.transformations):
        raise ValueError("an encoder has neither classes nor transformations, and this one has")
    for name, mode in manifest.modes.items():
        found = [t for t in mode.outputs if t.name in ANSWERS.values()]
        if [t.name for t in found] != [ANSWERS[task]]:
            raise ValueError(
                f"mode {name!r} answers with {[t.name for t in found]}, not with {ANSWERS[task]!r}"
            )
        sizes = found[0].shape[1:]
        if len(sizes) != 1 or not isinstance(sizes[0], int) or sizes[0] < 1:
            raise ValueError(f"mode {name!r} answers with the shape {found[0].shape}")


def _check_auto(manifest: Manifest) -> None:
    """Raise ValueError where `auto` names what the bundle lacks, or numbers that cannot be."""
    auto = manifest.auto
    if taken := {AUTO, AUTO_REST} & manifest.modes.keys():
        raise ValueError(f"{sorted(taken)} cannot be the name of a mode with a graph of its own")
    if auto is None:
        return
    if manifest.task != "classify":
        raise ValueError("an encoder has no mode 'auto'")
    if auto.first == AGGREGATED:
        raise ValueError(
            f"auto cannot begin with {AGGREGATED!r}, after which nothing is left to run"
        )
    for name in (auto.first, AGGREGATED):
        if name not in manifest.modes:
            raise ValueError(f"auto needs the mode {name!r}, and there is none")
    most = manifest.modes[AGGREGATED].forward_passes + 1
    limits = {"threshold": (0, 1), "escalation_rate": (0, 1), "forward_passes": (1, most)}
    for name, (low, high) in limits.items():
        value = getattr(auto, name)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not (number and low <= value <= high):
            raise ValueError(f"auto.{name} is {value!r}, not a number from {low} to {high}")
    given = [tensor.name for tensor in manifest.modes[auto.first].outputs]
    if auto.rest is not None and IDENTITY_LOGITS not in given:
        raise ValueError(f"mode {auto.first!r} gives no {IDENTITY_LOGITS!r} to the rest of auto")
