"""`viewfold pretrain` over so many steps that something is learnt."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_sample_images

from tests.training.pretraining import NARROW
from tests.training.runs import rows
from training.config import DataConfig, OptimConfig
from training.pretrain import pretrain
from training.pretrain_config import MethodConfig, PretrainConfig


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """456 pieces of 48 x 48 pixels of the two photographs of scikit-learn; the class is which of them."""
    pieces, labels = [], []
    for label, photograph in enumerate(load_sample_images().images):
        for top in range(0, photograph.shape[0] - 48, 32):
            for left in range(0, photograph.shape[1] - 48, 32):
                pieces.append(photograph[top : top + 48, left : left + 48])
                labels.append(label)
    order = np.random.default_rng(0).permutation(len(pieces))
    images, classes = np.stack(pieces)[order], np.array(labels)[order]
    path = tmp_path_factory.mktemp("photographs") / "photographs.npz"
    np.savez(
        path,
        train_images=images, train_labels=classes, test_images=images[:8], test_labels=classes[:8],
    )  # fmt: skip
    return path


@pytest.mark.slow
@pytest.mark.parametrize("method", sorted(NARROW))
def test_every_loss_falls_on_photographs(method: str, photographs: Path, tmp_path: Path):
    widths = {} if method == "supervised" else {"hidden": 128, "projection": 64}
    own = {"moco": {"queue": 128, "momentum": 0.99}, "swav": {"prototypes": 32, "freeze_steps": 4}}
    config = PretrainConfig(
        data=DataConfig(data=f"npz:{photographs}", image_size=32),
        settings=MethodConfig(**widths, **own.get(method, {})),
        method=method,
        augself="crop=1,color=1",
        backbone="resnet8",
        epochs=8,
        batch_size=64,
        device="cpu",
        out=tmp_path / "run",
    )
    written = rows(pretrain(config).folder)
    for loss in (method, "augself_crop", "augself_color"):
        values = [float(row[loss]) for row in written]
        # of the first two: MoCo's loss rises while its queue fills with keys that mean something
        highest, last = max(values[:2]), values[-1]
        assert last < highest - 0.05 * abs(highest), (loss, values)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("lr", "weight_decay", "collapsed"), [(1.0, 1e-2, True), (0.05, 5e-4, False)]
)
def test_encoder_that_really_collapses_is_told_from_a_healthy_one(
    lr: float,
    weight_decay: float,
    collapsed: bool,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
):
    """The collapsed one's features have a standard deviation of 0.02, the healthy one's of 0.14."""
    config = PretrainConfig(
        data=DataConfig(data="digits", workers=1),
        optim=OptimConfig(lr=lr, nesterov=False, weight_decay=weight_decay, warmup=0.0),
        settings=MethodConfig(hidden=64, projection=64),
        backbone="resnet8",
        epochs=8,  # of 20 steps
        batch_size=64,
        device="cpu",
        precision="fp32",
        out=tmp_path / "run",
    )
    result = pretrain(config).result()
    said = capsys.readouterr().out
    assert result["collapsed"] is collapsed
    assert ("THE ENCODER HAS COLLAPSED" in said) is collapsed
    assert ("(collapsed)" in said) is collapsed
