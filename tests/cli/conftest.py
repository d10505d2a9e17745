import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import viewfold
from tests.cli import Command


@pytest.fixture
def exit_code(monkeypatch: pytest.MonkeyPatch) -> Callable[..., object]:
    """Run a command; returns the code that it ends with."""

    def run(*arguments: str | Path) -> object:
        monkeypatch.setattr(sys, "argv", ["viewfold", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            viewfold.main()
        return caught.value.code

    return run


@pytest.fixture
def refused(exit_code: Callable[..., object], capsys: pytest.CaptureFixture[str]) -> Command:
    """Run a command that must be refused; returns the sentence it says."""

    def run(*arguments: str | Path) -> str:
        code, said = exit_code(*arguments), capsys.readouterr().err
        assert code == 2, said
        assert "Traceback" not in said
        return said

    return run


@pytest.fixture
def carried_out(exit_code: Callable[..., object], capsys: pytest.CaptureFixture[str]) -> Command:
    """Run a command that must be carried out; returns what it prints."""

    def run(*arguments: str | Path) -> str:
        code, said = exit_code(*arguments), capsys.readouterr()
        assert code == 0, said.err
        return said.out

    return run
