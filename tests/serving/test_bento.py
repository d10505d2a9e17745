"""`bentoml build`, and the Bento served from another folder in an environment of its own, without torch."""

import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path

import httpx
import pytest

from serving.settings import ROOT
from tests.bundles import write_bundle
from tests.pictures import GREEN, plain
from tests.serving.servers import free_port, serving

pytestmark = pytest.mark.slow

SOURCES = ("serving", "training", "export", "tests")
FILES = ("bentofile.yaml", "pyproject.toml")


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository with a small bundle in bundle/."""
    copy = tmp_path_factory.mktemp("copy")
    for name in SOURCES:
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        shutil.copy(ROOT / name, copy / name)
    write_bundle(copy / "bundle")
    return copy


def build(repository: Path, home: Path, *options: str) -> subprocess.CompletedProcess[str]:
    home.mkdir(exist_ok=True)
    return subprocess.run(
        [sys.executable, "-m", "bentoml", "build", *options],
        cwd=repository,
        env={**os.environ, "BENTOML_HOME": str(home), "BENTOML_DO_NOT_TRACK": "True"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def bento(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Bento, exported to an archive and unpacked where nothing of the repository is near."""
    folder = tmp_path_factory.mktemp("elsewhere")
    built = build(repository, folder / "home", "--version", "test")
    assert built.returncode == 0, built.stderr
    command = [
        sys.executable,
        "-m",
        "bentoml",
        "export",
        "viewfold:test",
        str(folder / "it.tar.gz"),
    ]
    environment = {**os.environ, "BENTOML_HOME": str(folder / "home")}
    subprocess.run(command, env=environment, check=True, capture_output=True)
    shutil.rmtree(folder / "home")
    with tarfile.open(folder / "it.tar.gz") as archive:
        archive.extractall(folder / "unpacked", filter="data")
    return folder / "unpacked"


def test_bento_holds_the_service_and_the_bundle_and_nothing_else(bento: Path):
    inside = {path.name for path in (bento / "src").iterdir()}
    assert inside == {"serving", "bundle", "bentofile.yaml"}
    assert (bento / "src/serving/page/index.html").is_file()
    assert {path.suffix for path in (bento / "src/bundle").iterdir()} == {".json", ".onnx", ""}


def test_bento_asks_for_what_pyproject_asks_for(bento: Path):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    text = (bento / "env/python/requirements.txt").read_text()
    for requirement in project["dependencies"]:
        assert requirement.partition(";")[0].strip() in text
    assert "torch" not in text


@pytest.mark.parametrize("change", ["missing", "altered"])
def test_build_without_a_whole_bundle_fails(repository: Path, tmp_path: Path, change: str):
    copy = tmp_path / "copy"
    shutil.copytree(repository, copy)
    if change == "missing":
        shutil.rmtree(copy / "bundle")
    else:
        (copy / "bundle/single.onnx").write_bytes(b"another")
    built = build(copy, tmp_path / "home")
    assert built.returncode != 0
    assert "the folder bundle/ cannot go into a Bento" in built.stderr
    assert "Traceback" not in built.stderr


@pytest.fixture(scope="module")
def python(bento: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The interpreter of an environment that has what the Bento asks for and nothing else."""
    environment = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    interpreter = environment / "bin" / "python"
    command = [str(interpreter), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    command += ["-r", str(bento / "env/python/requirements.txt")]
    if (ROOT / "constraints.txt").is_file():
        command += ["-c", str(ROOT / "constraints.txt")]
    subprocess.run(command, check=True)
    return str(interpreter)


def test_bento_answers_in_an_environment_without_torch(python: str, bento: Path, tmp_path: Path):
    for module in ("torch", "onnx", "training", "export"):
        command = [python, "-c", f"import {module}"]
        failed = subprocess.run(command, cwd=bento / "src", capture_output=True, check=False)
        assert b"ModuleNotFoundError" in failed.stderr
    port = free_port()
    command = ["-m", "bentoml", "serve", str(bento), "--port", str(port), "--host", "127.0.0.1"]
    log = tmp_path / "log"
    with serving(command, port, log, python=python, PYTHONPATH="") as url:
        answer = httpx.post(f"{url}/predict?mode=aggregated", content=plain(GREEN)).json()
    assert (answer["label"], answer["forward_passes"]) == ("green", 4)
