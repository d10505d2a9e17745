"""What the workers of a server agree on: one file for what is wanted, one for what each of them serves."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from subprocess import PIPE

import pytest

from serving import repository_state
from serving.repository_state import READY, Entry, State
from serving.settings import ROOT

OTHER_WORKER = """
import sys
from pathlib import Path
from serving.repository_state import State
state = State(Path(sys.argv[1]))
with state.worker():
    state.report(7, ())
    print("here", flush=True)
    sys.stdin.read()
"""

OTHER_SERVER = """
import os, sys
os.getpid = lambda: 1
from serving.repository_state import make_folder
print(make_folder(), flush=True)
sys.stdin.read()
"""


def test_first_wish_is_kept_whoever_comes_later(tmp_path: Path):
    state = State(tmp_path)
    assert not state.begun
    state.begin(["a", "b"], None)
    state.begin(["c"], "c")
    wanted = state.wanted()
    assert (wanted.generation, wanted.models, wanted.single) == (1, {"a": 1, "b": 1}, None)


def test_generation_only_grows_and_says_when_each_model_was_asked_for(tmp_path: Path):
    state = State(tmp_path)
    state.begin(["a", "b"], None)
    before = state.stamp()
    assert state.load(["b", "c"]) == 2
    assert state.stamp() != before
    assert state.unload(["a"], for_good=True) == 3
    wanted = state.wanted()
    assert (wanted.models, wanted.unloaded) == ({"b": 2, "c": 2}, ("a",))
    assert state.load(["a"]) == 4
    assert (state.wanted().models, state.wanted().unloaded) == ({"b": 2, "c": 2, "a": 4}, ())


def test_changes_at_the_same_time_are_all_kept(tmp_path: Path):
    State(tmp_path).begin([], None)
    names = [f"m{k}" for k in range(40)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda name: State(tmp_path).load([name]), names))
    assert sorted(found) == list(range(2, 42))
    assert sorted(State(tmp_path).wanted().models) == sorted(names)


def test_worker_counts_for_as_long_as_it_lives(tmp_path: Path):
    state = State(tmp_path)
    state.begin([], None)
    command = [sys.executable, "-c", OTHER_WORKER, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "env": environment}
    with subprocess.Popen(command, **pipes) as other, state.worker():  # type: ignore[call-overload]
        assert other.stdout.readline() == b"here\n"
        state.report(3, [Entry("a", "1", READY)])
        found = {report.pid: report for report in state.reports()}
        assert {pid: report.generation for pid, report in found.items()} == {
            os.getpid(): 3,
            other.pid: 7,
        }
        assert found[os.getpid()].entries == (Entry("a", "1", READY),)
        other.kill()
        other.wait()
        assert [report.pid for report in state.reports()] == [os.getpid()]
    assert state.reports() == []


def test_one_leads_until_it_lets_go(tmp_path: Path):
    first = State(tmp_path).try_lead()
    assert first is not None
    assert State(tmp_path).try_lead() is None
    first.close()
    second = State(tmp_path).try_lead()
    assert second is not None
    second.close()


def test_folder_is_named_for_workers_and_another_one_for_each_server(tmp_path: Path):
    environment = {"BENTOML_HOME": str(tmp_path)}
    made = repository_state.make_folder(environment)
    with repository_state.worker_folder(environment) as found:
        assert found == made
    assert made.is_dir()
    assert repository_state.make_folder(environment) != made


def test_servers_that_share_a_home_leave_each_other_alone_until_they_are_dead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """As in two containers, where both are process 1, and neither sees the other's processes."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "BENTOML_HOME": str(tmp_path)}
    command, pipes = [sys.executable, "-c", OTHER_SERVER], {"stdin": PIPE, "stdout": PIPE}
    with subprocess.Popen(command, env=environment, **pipes) as other:  # type: ignore[call-overload]
        theirs = Path(other.stdout.readline().decode().strip())
        monkeypatch.setattr(os, "getpid", lambda: 1)
        ours = repository_state.make_folder(environment)
        assert ours != theirs
        assert theirs.is_dir()
        other.kill()
        other.wait()
    repository_state.make_folder(environment)
    assert (ours.is_dir(), theirs.exists()) == (True, False)


def test_folder_stays_while_a_worker_lives_that_has_lost_its_server(tmp_path: Path):
    environment = {"BENTOML_HOME": str(tmp_path)}
    orphaned = tmp_path / "viewfold-state" / "4711"
    orphaned.mkdir(parents=True)
    with State(orphaned).worker():
        repository_state.make_folder(environment)
        assert orphaned.is_dir()
    repository_state.make_folder(environment)
    assert not orphaned.exists()


def test_worker_that_nothing_started_has_a_folder_of_its_own_for_a_while():
    with repository_state.worker_folder({}) as found:
        assert found.is_dir()
    assert not found.exists()
