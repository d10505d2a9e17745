import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from export import convert
from export.bundle import export
from export.config import ExportConfig
from export.graphs import AllCopies, OnePass, Signature
from tests.runs import tiny_run
from training import checkpoint
from training.checkpoint import Run


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A self-distilled run. Not to be changed: copy it first."""
    return tiny_run(tmp_path_factory.mktemp("trained"))


@pytest.fixture(scope="session")
def exported(
    trained: Run, converted: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The bundle of that run. Not to be changed: copy it first."""
    out = tmp_path_factory.mktemp("exported") / "colours"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(convert, "to_onnx", recalling(converted))
        export(ExportConfig(trained.folder, out))
    return out


@pytest.fixture
def run(trained: Run, tmp_path: Path) -> Run:
    """A copy of the run that a test may change."""
    return checkpoint.open_run(shutil.copytree(trained.folder, tmp_path / "copied-run"))


@pytest.fixture(scope="session")
def converted() -> dict[str, bytes]:
    """The graphs that were converted, by what they are."""
    return {}


@pytest.fixture
def convert_once(monkeypatch: pytest.MonkeyPatch, converted: dict[str, bytes]) -> None:
    """Converting takes seconds and is test_convert's matter: with this, every graph is converted once."""
    monkeypatch.setattr(convert, "to_onnx", recalling(converted))


def recalling(converted: dict[str, bytes]) -> Callable[..., onnx.ModelProto]:
    """What converts a graph, or recalls the same one under whatever name the model has."""
    convert_now = convert.to_onnx

    def convert_or_recall(
        graph: OnePass | AllCopies, shape: Signature, facts: dict[str, Any]
    ) -> onnx.ModelProto:
        weights = b"".join(tensor.numpy().tobytes() for tensor in graph.state_dict().values())
        unnamed = {key: value for key, value in facts.items() if key != "name"}
        key = f"{unnamed} {hash(weights)}"
        if key not in converted:
            converted[key] = convert_now(graph, shape, facts).SerializeToString()
        model = onnx.ModelProto.FromString(converted[key])
        for prop in model.metadata_props:
            prop.value = facts["name"] if prop.key == "name" else prop.value
        return model

    return convert_or_recall
