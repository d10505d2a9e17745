"""The `viewfold` command: one line a verb, each imported only when it is called.

Exit codes: 0 done; 2 something the user can mend, said in one sentence; 130 interrupted.
"""

import errno
import sys
from collections.abc import Callable, Sequence
from importlib import metadata
from typing import TYPE_CHECKING

import tyro

if TYPE_CHECKING:
    from training.checkpoint import C

OF_THE_MACHINE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)
PACKAGES = ("training", "export", "serving")


def train(arguments: Sequence[str]) -> int:
    """Train a classifier on a folder of images, an .npz file or a known data set."""
    from training.config import TrainConfig

    config = tyro.cli(TrainConfig, prog="viewfold train", args=arguments)
    if config.resume is not None:
        config = _going_on(config, "viewfold train", arguments)
    elif config.weights is not None:
        from training.pretrained import defaults_of

        # read again: what is given stands, what is not is as the run has it that the weights are of
        config = tyro.cli(
            TrainConfig, prog="viewfold train", args=arguments, default=defaults_of(config)
        )
    from training.classify import train

    return 0 if train(config).complete else 130


def pretrain(arguments: Sequence[str]) -> int:
    """Pretrain an encoder on images without labels, aware of its augmentations (AugSelf)."""
    from training.pretrain_config import PretrainConfig

    config = tyro.cli(PretrainConfig, prog="viewfold pretrain", args=arguments)
    if config.resume is not None:
        config = _going_on(config, "viewfold pretrain", arguments)
    from training.pretrain import pretrain

    return 0 if pretrain(config).complete else 130


def probe(arguments: Sequence[str]) -> int:
    """Fit a linear classifier to a frozen encoder's features (linear evaluation)."""
    from training.probe_config import ProbeConfig

    config = tyro.cli(ProbeConfig, prog="viewfold probe", args=arguments)
    from training.probe import probe

    probe(config)
    return 0


def fewshot(arguments: Sequence[str]) -> int:
    """Evaluate a frozen encoder by classifiers of a few images (episodes)."""
    from training.probe_config import FewShotConfig

    config = tyro.cli(FewShotConfig, prog="viewfold fewshot", args=arguments)
    from training.few_shot import fewshot

    fewshot(config)
    return 0


def awareness(arguments: Sequence[str]) -> int:
    """Measure whether a frozen encoder knows what was done to its images."""
    from training.probe_config import AwarenessConfig

    prog = "viewfold awareness"
    encoder = tyro.cli(AwarenessConfig, prog=prog, args=arguments).encoder
    from training.awareness import awareness, defaults_of

    # read again: what is given stands, what is not is as the encoder has it; of other data, what fits that
    given = tyro.cli(AwarenessConfig, prog=prog, args=arguments, default=defaults_of(encoder))
    default = defaults_of(encoder, given.data.data)
    awareness(tyro.cli(AwarenessConfig, prog=prog, args=arguments, default=default))
    return 0


def evaluate(arguments: Sequence[str]) -> int:
    """Measure runs or bundles in each mode: accuracy, NLL, calibration error; of several, mean ± sd."""
    from export.config import EvaluateConfig

    config = tyro.cli(EvaluateConfig, prog="viewfold evaluate", args=arguments)
    from export.evaluate import run

    run(config)
    return 0


def report(arguments: Sequence[str]) -> int:
    """Show a run as one HTML page: curves, calibration, confusion, the worst mistakes."""
    from training.config import ReportConfig

    config = tyro.cli(ReportConfig, prog="viewfold report", args=arguments)
    from training.report import report

    report(config)
    return 0


def export(arguments: Sequence[str]) -> int:
    """Turn a run into a bundle of verified ONNX graphs."""
    from export.config import ExportConfig

    config = tyro.cli(ExportConfig, prog="viewfold export", args=arguments)
    from export.bundle import export

    export(config)
    return 0


def serve(arguments: Sequence[str]) -> int:
    """Answer over HTTP with a bundle."""
    from serving.start import ServeConfig, defaults, run

    run(tyro.cli(ServeConfig, prog="viewfold serve", args=arguments, default=defaults()))
    return 0


def embed(arguments: Sequence[str]) -> int:
    """Embed a folder of images by an encoder's bundle, into one .npz file."""
    from serving.embed_files import EmbedConfig, embed_folder

    embed_folder(tyro.cli(EmbedConfig, prog="viewfold embed", args=arguments))
    return 0


def predict(arguments: Sequence[str]) -> int:
    """Classify images and folders of images by a bundle, into one .csv, .jsonl or .parquet file."""
    from serving.predict_files import PredictConfig, predict

    predict(tyro.cli(PredictConfig, prog="viewfold predict", args=arguments))
    return 0


VERBS: dict[str, Callable[[Sequence[str]], int]] = {
    "train": train,
    "pretrain": pretrain,
    "probe": probe,
    "fewshot": fewshot,
    "awareness": awareness,
    "evaluate": evaluate,
    "report": report,
    "export": export,
    "serve": serve,
    "embed": embed,
    "predict": predict,
}
EXTRAS = {
    "train": "train",
    "pretrain": "train",
    "probe": "train",
    "fewshot": "train",
    "awareness": "train",
    "evaluate": "export",
    "report": "train",
    "export": "export",
    "serve": "",
    "embed": "",
    "predict": "",
}


def main() -> None:
    """Run the verb that the command line names."""
    verb, arguments = (sys.argv[1] if len(sys.argv) > 1 else "--help"), sys.argv[2:]
    if verb in ("--help", "-h"):
        print(_usage())
        sys.exit(0)
    if verb == "--version":
        print(metadata.version("viewfold"))
        sys.exit(0)
    if verb not in VERBS:
        sys.exit(_complain(f"unknown command {verb!r}; choose from {', '.join(VERBS)}"))
    try:
        sys.exit(VERBS[verb](arguments))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] in PACKAGES:
            raise
        sys.exit(
            _complain(
                f"{error.name} is not installed; viewfold {verb} needs: pip install 'viewfold[{EXTRAS[verb]}]'"
            )
        )
    except OSError as error:
        if error.errno not in OF_THE_MACHINE:
            raise
        sys.exit(_complain(f"{error.strerror}: {error.filename or 'while writing'}"))
    except Exception as error:
        # an exception class of our own is a message to the user; anything else is a defect and keeps its traceback
        if type(error).__module__.split(".")[0] not in PACKAGES:
            raise
        sys.exit(_complain(str(error)))


def _going_on(config: "C", prog: str, arguments: Sequence[str]) -> "C":
    """What the arguments give to the run that config.resume names."""
    from training.resume import given_settings, own_settings

    # read again: what differs from the run's own settings was given, also where it is what others have by default
    own = own_settings(config)
    return given_settings(tyro.cli(type(config), prog=prog, args=arguments, default=own), own)


def _complain(message: str) -> int:
    print(f"viewfold: {message}", file=sys.stderr)
    return 2


def _usage() -> str:
    lines = [f"  {name:<10} {(function.__doc__ or '').strip()}" for name, function in VERBS.items()]
    return "usage: viewfold COMMAND [--help] ...\n\n" + "\n".join(lines)


if __name__ == "__main__":
    main()
