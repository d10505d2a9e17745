import errno
import re
import subprocess
import sys
from pathlib import Path

import pytest

import viewfold
from tests.cli import Command


def test_unknown_command_is_answered_with_the_valid_ones(refused: Command):
    assert re.search("train.*evaluate.*report.*export.*serve", refused("tarin"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("package", "arguments"), [("torch", ["train"]), ("matplotlib", ["report", "runs/digits"])]
)
def test_a_missing_package_names_the_extra(tmp_path: Path, package: str, arguments: list[str]):
    code = f"import sys; sys.modules[{package!r}] = None; sys.argv = ['viewfold', *{arguments}]\n"
    code += "import viewfold; viewfold.main()"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 2
    assert "pip install 'viewfold[train]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_usage_and_help_need_nothing_heavy():
    code = "import sys; sys.argv = ['viewfold', *{!r}]; import viewfold\n"
    code += "try: viewfold.main()\nfinally: assert 'torch' not in sys.modules and 'bentoml' not in sys.modules"
    for arguments in (
        ["--help"],
        ["train", "--help"],
        ["export", "--help"],
        ["evaluate", "--help"],
        ["report", "--help"],
        ["embed", "--help"],
        ["predict", "--help"],
    ):
        command = [sys.executable, "-c", code.format(arguments)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "usage" in done.stdout.lower()


def test_a_full_disk_is_said_in_a_sentence(refused: Command, monkeypatch: pytest.MonkeyPatch):
    def full(arguments: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device", "weights.safetensors")

    monkeypatch.setitem(viewfold.VERBS, "train", full)
    assert refused("train") == "viewfold: No space left on device: weights.safetensors\n"


def test_a_defect_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch):
    def broken(arguments: object) -> int:
        raise RuntimeError("a defect")

    monkeypatch.setitem(viewfold.VERBS, "train", broken)
    monkeypatch.setattr(sys, "argv", ["viewfold", "train"])
    with pytest.raises(RuntimeError, match="a defect"):
        viewfold.main()
