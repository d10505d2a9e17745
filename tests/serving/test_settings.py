from pathlib import Path

import pytest

from serving import settings
from serving.settings import DEFAULT_BUNDLE, Settings, SettingsError, read


def test_nothing_set_means_the_bundle_beside_the_package():
    assert read({}) == Settings(DEFAULT_BUNDLE, None, "auto", 1)
    assert Path(settings.__file__).parent.parent / "bundle" == DEFAULT_BUNDLE


def test_empty_variables_count_as_not_set():
    names = ("VIEWFOLD_BUNDLE", "VIEWFOLD_MODE", "VIEWFOLD_DEVICE", "VIEWFOLD_WORKERS")
    assert read(dict.fromkeys(names, "")) == read({})


@pytest.mark.parametrize("mode", [None, "single"])
def test_workers_read_what_the_starter_chose(tmp_path: Path, mode: str | None):
    chosen = Settings(
        tmp_path, mode, "cpu", 3, True, ("single", "aggregated"), watch=True, allow_load=True
    )
    assert read(chosen.environment()) == chosen


def test_relative_folder_reaches_workers_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert Settings(Path("here")).environment()["VIEWFOLD_BUNDLE"] == str(tmp_path / "here")


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("VIEWFOLD_WORKERS", "0"),
        ("VIEWFOLD_WORKERS", "-1"),
        ("VIEWFOLD_WORKERS", "2.5"),
        ("VIEWFOLD_WORKERS", "²"),
        ("VIEWFOLD_DEVICE", "gpu"),
        ("VIEWFOLD_MODES", "single,,aggregated"),
        ("VIEWFOLD_WATCH", "yes"),
        ("VIEWFOLD_ALLOW_LOAD", "on"),
        ("VIEWFOLD_STRICT", "true"),
    ],
)
def test_value_that_cannot_be_is_named(variable: str, value: str):
    with pytest.raises(SettingsError, match=value.removeprefix("-")):
        read({variable: value})


@pytest.mark.parametrize(("workers", "threads"), [(1, 8), (3, 2), (8, 1), (100, 1)])
def test_workers_share_the_processors(monkeypatch: pytest.MonkeyPatch, workers: int, threads: int):
    monkeypatch.setattr(settings, "available_cpus", lambda: 8)
    assert Settings(workers=workers).threads == threads


def test_relative_bundle_is_made_absolute_for_workers_that_run_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    environment = {"VIEWFOLD_BUNDLE": "bundles/photos"}
    settings.pin_bundle(environment)
    assert environment == {"VIEWFOLD_BUNDLE": str(tmp_path / "bundles" / "photos")}


def test_bundle_that_is_not_set_stays_unset():
    environment: dict[str, str] = {"VIEWFOLD_BUNDLE": ""}
    settings.pin_bundle(environment)
    assert environment == {"VIEWFOLD_BUNDLE": ""}
