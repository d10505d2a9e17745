"""What the documents say is what there is."""

import itertools
import re
import tomllib
from pathlib import Path

import pytest
import tyro

import viewfold
from benchmarks import experiments, tables
from export.config import EvaluateConfig, ExportConfig
from serving.start import ServeConfig
from training import data, torchvision_sets
from training.backbones import BACKBONES
from training.config import ReportConfig, TrainConfig
from training.pretrain_config import PretrainConfig
from training.transformations import FACTORS

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()


def commands(verb: str) -> list[list[str]]:
    """The arguments of every `viewfold VERB ...` that stands on a line of its own in the README."""
    return [
        line.split()[2:] for line in README.splitlines() if line.startswith(f"viewfold {verb} ")
    ]


def test_tables_are_made_from_the_results():
    for name in tables.DOCUMENTS:
        text = (ROOT / name).read_text()
        assert tables.filled(text) == text, name
    assert "<!-- table: digits -->\n| trained as" in README


def test_commands_of_the_readme_are_understood():
    for verb, config in {
        "train": TrainConfig,
        "export": ExportConfig,
        "serve": ServeConfig,
    }.items():
        found = commands(verb)
        assert found, verb
        for arguments in found:
            tyro.cli(config, args=arguments)


def test_every_verb_is_in_the_readme():
    for verb in viewfold.VERBS:
        assert f"viewfold {verb}" in README


def help_of(config: type, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit):
        tyro.cli(config, args=["--help"])
    return re.sub(r"[│╭╮╰╯─\s]+", " ", capsys.readouterr().out)


def test_flags_of_the_readme_exist(capsys: pytest.CaptureFixture[str]):
    configs = (TrainConfig, PretrainConfig, EvaluateConfig, ReportConfig, ServeConfig)
    helps = "".join(help_of(config, capsys) for config in configs)
    for flag in set(re.findall(r"`(--[\w.-]+)", README)):
        assert flag in helps, flag


def test_help_lists_every_name(capsys: pytest.CaptureFixture[str]):
    text = help_of(TrainConfig, capsys)
    for name in [*BACKBONES, *FACTORS]:
        assert name in text


def test_make_serve_trains_what_the_benchmark_measures():
    recipe = re.search(r"^RECIPE := (.*)$", MAKEFILE, re.MULTILINE)
    assert recipe is not None
    assert tyro.cli(TrainConfig, args=recipe[1].split()) == experiments.DIGITS


def test_targets_of_the_documents_exist():
    text = README + (ROOT / "CONTRIBUTING.md").read_text() + (ROOT / ".ci" / "run").read_text()
    for target in set(re.findall(r"^make ([\w-]+)", text, re.MULTILINE)):
        assert re.search(rf"^{target}:", MAKEFILE, re.MULTILINE), target


def test_every_file_of_the_packages_is_in_the_architecture():
    text = (ROOT / "docs" / "architecture.md").read_text()
    sections = [part.partition("\n") for part in text.split("\n### ")[1:]]
    for package in ("training", "training/ssl", "export", "serving"):
        own = re.compile(rf"{package}[:,]")
        rows = "".join(body for title, _, body in sections if own.match(title))
        for path in (ROOT / package).glob("*.py"):
            assert path.name == "__init__.py" or f"`{path.name}`" in rows, path


def test_about_twenty_torchvision_sets_are_known():
    assert len(torchvision_sets.SETS) >= 20
    assert set(torchvision_sets.SETS) < set(data.known_names())


def test_constraints_pin_every_dependency():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pinned = {
        line.split("==")[0].lower() for line in (ROOT / "constraints.txt").read_text().splitlines()
    }
    required = [project["dependencies"], *project["optional-dependencies"].values()]
    for requirement in itertools.chain.from_iterable(required):
        name = re.split(r"[\[>=;< ]", requirement)[0]
        assert name in pinned | {"viewfold", "onnxruntime"}, (
            name
        )  # onnxruntime: for platforms without the GPU wheel


def test_platform_that_is_promised_is_the_one_that_requirements_know():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    systems = [line for line in project["classifiers"] if line.startswith("Operating System")]
    assert systems == ["Operating System :: POSIX :: Linux"]
    assert "Linux, Python 3.11 or 3.12" in (ROOT / "README.md").read_text()
    assert not [line for line in project["dependencies"] if "win32" in line]
