import os
from pathlib import Path

import pytest

from serving import limits


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of 8 processors without any quota; tests write the control group's files."""
    monkeypatch.setattr(limits, "_CGROUP_V2", tmp_path / "cpu.max")
    monkeypatch.setattr(limits, "_CGROUP_V1", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    return tmp_path


def test_without_control_groups_the_affinity_counts(machine: Path):
    assert limits.available_cpus() == 8


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("max 100000\n", 8),
        ("200000 100000\n", 2),
        ("250000 100000\n", 3),
        ("10000 100000\n", 1),
        ("9900000 100000\n", 8),
    ],
)
def test_quota_of_version_2(machine: Path, content: str, expected: int):
    (machine / "cpu.max").write_text(content)
    assert limits.available_cpus() == expected


@pytest.mark.parametrize(("quota", "expected"), [("-1", 8), ("200000", 2), ("150000", 2)])
def test_quota_of_version_1(machine: Path, quota: str, expected: int):
    (machine / "cpu.cfs_quota_us").write_text(f"{quota}\n")
    (machine / "cpu.cfs_period_us").write_text("100000\n")
    assert limits.available_cpus() == expected


def test_quota_without_a_period_is_no_quota(machine: Path):
    (machine / "cpu.cfs_quota_us").write_text("200000\n")
    assert limits.available_cpus() == 8


@pytest.mark.parametrize("content", ["", "nonsense", "a b", "0 0"])
def test_files_that_make_no_sense_are_no_quota(machine: Path, content: str):
    (machine / "cpu.max").write_text(content)
    assert limits.available_cpus() == 8
