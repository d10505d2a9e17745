"""A folder of models on disk: its layout, which version is served, what is refused and why."""

import os
import shutil
from pathlib import Path

import pytest

from serving import model, repository
from serving.bundle import BundleError
from serving.engine import Processors
from serving.model import Model
from serving.predictor import ModeError
from serving.repository import Make, Repository, RepositoryError, open_repository
from serving.settings import Settings
from tests.bundles import write_bundle, write_embedder, write_unloadable


@pytest.fixture
def make(processors: Processors) -> Make:
    """Loads a bundle as a worker does."""
    settings = Settings(device="cpu")
    return lambda found, name, version, digest: model.make(
        found, settings, processors, name=name, version=version, digest=digest
    )


def spoil(bundle: Path) -> Path:
    (bundle / "single.onnx").write_bytes(b"another")
    return bundle


def seen(root: Path, **fields: object) -> dict[str, tuple[bool, list[str]]]:
    settings = Settings(root, device="cpu", **fields)  # type: ignore[arg-type]
    found = repository.check(open_repository(settings), settings)
    return {one.name: (bool(one.bundle), [f.version for f in one.faults]) for one in found}


def test_models_are_called_as_their_folders_are(tmp_path: Path):
    write_bundle(tmp_path / "a", name="same")
    write_bundle(tmp_path / "b" / "3", name="same")
    write_embedder(tmp_path / "c d")
    assert Repository(tmp_path).names() == ["a", "b", "c d"]


def test_hidden_and_other_folders_are_no_models(tmp_path: Path):
    write_bundle(tmp_path / "a")
    write_bundle(tmp_path / ".a.part")
    write_bundle(tmp_path / "b" / "01")
    write_bundle(tmp_path / "c" / "latest")
    (tmp_path / "d").mkdir()
    (tmp_path / "README").write_text("notes")
    assert Repository(tmp_path).names() == ["a"]


def test_change_behind_a_link_is_seen(tmp_path: Path):
    write_bundle(tmp_path / "kept")
    (tmp_path / "models" / "a").mkdir(parents=True)
    (tmp_path / "models" / "a" / "1").symlink_to(tmp_path / "kept")
    before = repository.signature(tmp_path / "models" / "a")
    spoil(tmp_path / "kept")
    assert repository.signature(tmp_path / "models" / "a") != before


def test_bundle_by_itself_is_called_as_its_manifest_says(colours: Path):
    found = open_repository(Settings(colours))
    assert (found.names(), found.folder("colours")) == (["colours"], colours)


def test_highest_version_is_served_by_number_and_not_by_letters(tmp_path: Path, make: Make):
    for version in ("2", "10", "9"):
        write_bundle(tmp_path / "a" / version)
    loaded, faults = repository.load(tmp_path / "a", "a", make, None)
    assert loaded is not None
    assert (loaded.name, loaded.version, faults) == ("a", "10", [])


def test_version_that_does_not_verify_gives_way_to_the_one_below(tmp_path: Path, make: Make):
    write_bundle(tmp_path / "a" / "1")
    spoil(write_bundle(tmp_path / "a" / "2"))
    loaded, faults = repository.load(tmp_path / "a", "a", make, None)
    assert loaded is not None
    assert loaded.version == "1"
    assert [fault.version for fault in faults] == ["2"]
    assert "single.onnx: sha256 does not match" in faults[0].reason


def test_unchanged_bundle_is_not_loaded_again(tmp_path: Path, make: Make):
    write_bundle(tmp_path / "a")
    first, _ = repository.load(tmp_path / "a", "a", make, None)
    again, _ = repository.load(tmp_path / "a", "a", make, first)
    assert again is first
    write_bundle(tmp_path / "a", classes=("a", "b", "c"))
    other, _ = repository.load(tmp_path / "a", "a", make, first)
    assert other is not None
    assert other.predictor.manifest.classes == ("a", "b", "c")


@pytest.mark.parametrize("folder", ["a", "a/2"])
def test_altered_bundle_replaces_nothing_and_no_older_version_does(
    tmp_path: Path, make: Make, folder: str
):
    if folder == "a/2":
        write_bundle(tmp_path / "a" / "1")
    bundle = write_bundle(tmp_path / folder)
    first, _ = repository.load(tmp_path / "a", "a", make, None)
    spoil(bundle)
    again, faults = repository.load(tmp_path / "a", "a", make, first)
    assert again is first
    assert len(faults) == 1


def test_newer_version_takes_over_and_goes_back_when_it_is_removed(tmp_path: Path, make: Make):
    write_bundle(tmp_path / "a" / "1")
    current, _ = repository.load(tmp_path / "a", "a", make, None)
    for version, folder in (("2", write_bundle(tmp_path / "a" / "2")), ("1", None)):
        if folder is None:
            shutil.rmtree(tmp_path / "a" / "2")
        current, faults = repository.load(tmp_path / "a", "a", make, current)
        assert current is not None
        assert (current.version, faults) == (version, [])


def test_graph_that_onnxruntime_refuses_is_a_fault(tmp_path: Path, make: Make):
    folder = write_unloadable(tmp_path / "a")
    loaded, faults = repository.load(folder, "a", make, None)
    assert loaded is None
    assert "distilled.onnx: onnxruntime cannot load it" in faults[0].reason


def test_bundle_that_changes_while_it_is_loaded_is_not_served(tmp_path: Path, make: Make):
    """Its graphs may be another's than its manifest."""
    write_bundle(tmp_path / "a")

    def slow(*arguments: object) -> Model:
        write_bundle(tmp_path / "new", classes=("x", "y", "z"))
        shutil.rmtree(tmp_path / "a")
        (tmp_path / "new").rename(tmp_path / "a")
        return make(*arguments)  # type: ignore[arg-type]

    loaded, faults = repository.load(tmp_path / "a", "a", slow, None)
    assert loaded is None
    assert "was changed while it was being loaded" in faults[0].reason


def test_reasons_hold_no_path(tmp_path: Path, make: Make):
    (write_bundle(tmp_path / "a") / "single.onnx").unlink()
    _, faults = repository.load(tmp_path / "a", "a", make, None)
    assert faults[0].reason.startswith("single.onnx is missing from a;")


def test_what_cannot_be_served_is_said_and_the_rest_starts(tmp_path: Path):
    write_bundle(tmp_path / "good")
    spoil(write_bundle(tmp_path / "bad"))
    write_bundle(tmp_path / "old" / "1")
    spoil(write_bundle(tmp_path / "old" / "2"))
    assert seen(tmp_path) == {"bad": (False, ["1"]), "good": (True, []), "old": (True, ["2"])}


def test_strict_refuses_the_first_fault(tmp_path: Path):
    write_bundle(tmp_path / "good")
    spoil(write_bundle(tmp_path / "bad"))
    with pytest.raises(RepositoryError, match=r"bad: single\.onnx: sha256"):
        seen(tmp_path, strict=True)


def test_nothing_to_serve_is_refused(tmp_path: Path):
    with pytest.raises(RepositoryError, match="is not a bundle: it has no manifest"):
        seen(tmp_path)
    with pytest.raises(RepositoryError, match="is not a bundle: there is no such folder"):
        seen(tmp_path / "none", watch=True)
    spoil(write_bundle(tmp_path / "bad"))
    with pytest.raises(RepositoryError, match=r"bad: single\.onnx: sha256"):
        seen(tmp_path)


@pytest.mark.parametrize("switch", ["watch", "allow_load"])
def test_folder_may_be_empty_where_models_can_come_later(tmp_path: Path, switch: str):
    assert seen(tmp_path, **{switch: True}) == {}


def test_single_bundle_keeps_its_own_errors(tmp_path: Path):
    spoil(write_bundle(tmp_path))
    with pytest.raises(BundleError, match="sha256 does not match"):
        seen(tmp_path)


def test_mode_has_to_fit_every_model(tmp_path: Path):
    write_bundle(tmp_path / "classifier")
    write_embedder(tmp_path / "encoder")
    found = seen(tmp_path, mode="aggregated")
    assert found == {"classifier": (True, []), "encoder": (False, ["1"])}


def test_only_the_modes_asked_for_are_loaded(colours: Path, processors: Processors):
    settings = Settings(colours, device="cpu", modes=("single", "distilled"))
    loaded = model.load(settings, processors)
    assert set(model.describe(loaded)["modes"]) == {"distilled", "single"}
    assert not loaded.engine.explains
    with pytest.raises(model.RequestError, match=r"has \['distilled', 'single'\]"):
        model.mode_of(loaded, "aggregated")
    assert model.mode_of(loaded, None) == "distilled"


def test_default_mode_has_to_be_among_those_that_are_loaded(colours: Path, processors: Processors):
    with pytest.raises(ModeError, match="'distilled' is not among the modes to load"):
        model.load(Settings(colours, modes=("aggregated",)), processors)
    loaded = model.load(Settings(colours, mode="single", modes=("single",)), processors)
    assert loaded.default_mode == "single"


def test_manifest_that_no_parser_reads_is_a_fault(tmp_path: Path):
    write_bundle(tmp_path / "a")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "manifest.json").write_text("[" * 200_000)
    assert seen(tmp_path) == {"a": (True, []), "deep": (False, ["1"])}


def test_name_that_is_not_utf8_is_said_and_no_model(tmp_path: Path):
    write_bundle(tmp_path / "a")
    os.mkdir(os.fsencode(tmp_path) + b"/caf\xe9")
    (tmp_path / os.fsdecode(b"caf\xe9") / "manifest.json").write_text("{}")
    assert Repository(tmp_path).names() == ["a"]
    assert seen(tmp_path) == {"a": (True, []), "caf\\xe9": (False, [""])}
    with pytest.raises(RepositoryError, match=r"caf\\xe9: the folder's name is not UTF-8"):
        seen(tmp_path, strict=True)
