import shutil
from pathlib import Path

import pytest

from export.bundle import export
from export.config import ExportConfig
from tests.runs import tiny_run
from training import checkpoint
from training.checkpoint import Run


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A self-distilled run. Not to be changed: copy it first."""
    return tiny_run(tmp_path_factory.mktemp("trained"))


@pytest.fixture(scope="session")
def exported(trained: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of that run. Not to be changed: copy it first."""
    out = tmp_path_factory.mktemp("exported") / "colours"
    export(ExportConfig(trained.folder, out))
    return out


@pytest.fixture
def run(trained: Run, tmp_path: Path) -> Run:
    """A copy of the run that a test may change."""
    return checkpoint.open_run(shutil.copytree(trained.folder, tmp_path / "copied-run"))
