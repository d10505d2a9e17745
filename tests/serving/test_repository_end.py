"""Servers that can never answer end, and say why; those that may yet answer stay."""

import os
import signal
from pathlib import Path

import pytest

from serving.repository_end import Ending, hopeless
from serving.repository_state import LOADING, READY, UNAVAILABLE, Entry, Report, State
from serving.settings import ROOT
from tests.bundles import write_bundle, write_unloadable
from tests.serving.servers import STOP_S, free_port, launch, start_command

SAID = "error: nothing can be served: colours: distilled.onnx: onnxruntime cannot load it"
LOST = Entry("a", "1", UNAVAILABLE, "it is broken")

# a GPU that onnxruntime cannot use, although it is there: asked for, and not among a session's providers
NOT_ON_CUDA = """
import onnxruntime
from serving import predictor
session = onnxruntime.InferenceSession
predictor.provider = lambda device: "CUDAExecutionProvider"
onnxruntime.InferenceSession = lambda path, options, providers: session(
    path, options, providers=["CPUExecutionProvider"]
)
"""

pytestmark = pytest.mark.slow


def end_of(command: list[str], log: Path, **environment: str) -> tuple[int, str]:
    """Exit code and log of a server that ends by itself."""
    process = launch(command, log, **environment)
    try:
        return process.wait(3 * STOP_S), log.read_text()
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.mark.parametrize("workers", [1, 2])
def test_server_of_which_nothing_can_be_loaded_ends_with_one_sentence(tmp_path: Path, workers: int):
    write_unloadable(tmp_path / "bundle")
    command = start_command(tmp_path / "bundle", free_port(), device="cpu", workers=workers)
    code, said = end_of(command, tmp_path / "log")
    assert (code, said.count(SAID), said.count("Traceback")) == (2, 1, 0)


def test_folder_of_which_nothing_can_be_loaded_ends_plain_bentoml_serve(tmp_path: Path):
    write_unloadable(tmp_path / "models" / "a")
    write_unloadable(tmp_path / "models" / "b" / "3")
    command = ["-m", "bentoml", "serve", str(ROOT), "--port", str(free_port())]
    environment = {"VIEWFOLD_BUNDLE": "models", "VIEWFOLD_WORKERS": "2"}
    code, said = end_of(command, tmp_path / "log", **environment)
    assert (code, said.count("error: nothing can be served: a: distilled.onnx")) == (2, 1)
    assert "; b: distilled.onnx" in said


def test_device_that_is_not_really_there_ends_the_server(tmp_path: Path):
    write_bundle(tmp_path / "bundle")
    (tmp_path / "patch").mkdir()
    (tmp_path / "patch" / "sitecustomize.py").write_text(NOT_ON_CUDA)
    path = os.pathsep.join([str(tmp_path / "patch"), str(ROOT)])
    command = start_command(tmp_path / "bundle", free_port(), device="cuda")
    code, said = end_of(command, tmp_path / "log", PYTHONPATH=path)
    assert (code, "Traceback" in said) == (2, False)
    assert "error: nothing can be served: colours: CUDA was asked for, but onnxruntime" in said


def test_program_that_only_holds_a_server_is_not_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """As `bentoml.serve` in a notebook, which may have a handler of its own."""
    monkeypatch.setattr(os, "kill", lambda pid, number: pytest.fail("this process was ended"))
    monkeypatch.setattr(signal, "getsignal", lambda number: print)
    state = State(tmp_path)
    with state.worker():
        state.report(1, [LOST])
        ending = Ending(state, 1)
        ending._run()
    ending._exit()
    assert capsys.readouterr().err == "error: nothing can be served: a: it is broken\n"


@pytest.mark.parametrize(
    ("reports", "workers", "expected"),
    [
        ([], 1, False),
        ([Report(1, 1, (LOST,))], 1, True),
        ([Report(1, 1, (LOST,))], 2, False),  # the other has not begun
        ([Report(1, 1, (LOST,)), Report(2, 0, ())], 2, False),  # nor has it tried
        ([Report(1, 1, (LOST,)), Report(2, 1, (LOST,))], 2, True),
        ([Report(1, 1, (LOST,)), Report(2, 1, (Entry("a", "1", READY),))], 2, False),
        ([Report(1, 1, (LOST, Entry("b", "1", READY)))], 1, False),
        ([Report(1, 0, (LOST, Entry("b", "", LOADING)))], 1, False),
    ],
)
def test_nothing_is_given_up_before_every_worker_has_tried_everything(
    reports: list[Report], workers: int, expected: bool
):
    said = "nothing can be served: a: it is broken"
    assert hopeless(reports, workers) == (said if expected else None)
