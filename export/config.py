"""The settings of `viewfold export` and `viewfold evaluate`: a field is a flag, its docstring the help."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import tyro

from training.config import Device

Precision = Literal["fp32", "fp16", "int8"]
FP32: Final = "fp32"


@dataclass(frozen=True)
class ExportConfig:
    """Make a bundle of ONNX graphs from a run, and verify that it says what torch says.

    A classifier's run becomes a bundle that classifies; the encoder of `viewfold pretrain` one that embeds.
    """

    run: tyro.conf.Positional[Path]
    """The run folder that `viewfold train`, `pretrain` or `probe` made."""
    out: tyro.conf.Positional[Path]
    """The bundle's folder. It is there whole and verified, or not at all."""
    name: str | None = None
    """What the model is called over HTTP. Default: the name of the run's folder."""
    default_mode: str | None = None
    """The mode that answers when none is asked for, auto among them. Default: the objective's one-pass mode."""
    precision: Precision = FP32
    """fp32; fp16 halves the weights and is for GPUs; int8 is for processors with VNNI, about twice as fast there."""
    max_drop: float = 0.5
    """Of a classifier: points of top-1 on the validation split that a mode may lose to fp32, or nothing is exported."""
    min_cosine: float = 0.99
    """Of an encoder: the cosine that each held-out image's embedding must have with fp32's, or nothing is exported."""
    embed: bool = False
    """Of a classifier's run: its encoder alone, whose bundle answers with embeddings."""
    data_dir: Path | None = None
    """Where torchvision's data sets lie, if they have moved since training."""
    overwrite: bool = False
    """Replace the bundle that is there already."""


@dataclass(frozen=True)
class EvaluateConfig:
    """Measure every mode of a run (by torch) or of a bundle (by onnxruntime).

    Top-1 with its 95 % interval, top-5 where there are more than 5 classes, NLL and calibration error; of
    several, the mean ± standard deviation over the runs whose settings differ in the seed alone.
    """

    paths: tyro.conf.Positional[tuple[Path, ...]]
    """Run folders and bundles, one or more, of the same classes."""
    split: str = "test"
    """train, val or test."""
    data: str | None = None
    """Other data than it was trained on, of the same classes; as `viewfold train --data`."""
    data_dir: Path | None = None
    """Where torchvision's data sets lie, if they have moved since training."""
    device: Device = "auto"
    """Where to run; cuda fails where there is none."""
    per_class: bool = False
    """Also print the accuracy of every class (of one run or bundle)."""
    curve: bool = False
    """Also print what the mode auto would be worth at other thresholds (of one bundle)."""
    json: Path | None = None
    """Also write the numbers to this file, with the accuracy of every class, the confusion matrix and auto's curve."""
