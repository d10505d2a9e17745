"""Where `viewfold predict --engine ray` puts its parts, and what it replaces; without a Ray."""

import contextlib
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from serving import on_ray
from serving.offline import OfflineError
from serving.predict_files import PredictConfig, predict
from tests.folders import photos
from tests.pictures import RED


@pytest.fixture
def config(colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PredictConfig:
    monkeypatch.chdir(tmp_path)
    return PredictConfig(colours, ("photos",), "out.parquet", device="cpu", engine="ray")


@pytest.mark.parametrize("at", ["", "file://{}/"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_file_in_the_place_of_the_parts_is_refused_before_the_job(
    config: PredictConfig, tmp_path: Path, at: str, overwrite: bool
):
    pytest.importorskip("ray", reason="an optional extra")
    Path("out.parquet").write_bytes(b"mine")
    out = f"{at.format(tmp_path)}out.parquet"
    with pytest.raises(OfflineError, match="is a file, and --engine ray writes a folder"):
        predict(replace(config, out=out, overwrite=overwrite))
    assert Path("out.parquet").read_bytes() == b"mine"


def test_a_folder_at_an_address_that_holds_more_than_parts_is_never_replaced(
    config: PredictConfig, tmp_path: Path
):
    pytest.importorskip("ray", reason="an optional extra")
    photos(Path("out.parquet"), {"a.png": RED})
    with pytest.raises(OfflineError, match="holds more than parts"):
        predict(replace(config, out=f"file://{tmp_path}/out.parquet", overwrite=True))
    assert os.listdir("out.parquet") == ["a.png"]


def written(folder: Path, text: str) -> None:
    folder.mkdir()
    (folder / "0.csv").write_text(text)


@pytest.mark.usefixtures("config")
@pytest.mark.parametrize("at", ["", "file://{}/"])
def test_old_parts_stay_until_the_new_ones_are_all_there(tmp_path: Path, at: str):
    pytest.importorskip("pyarrow", reason="an optional extra")
    out, parts = f"{at.format(tmp_path)}out.csv", Path("out.csv.ray-part")
    written(Path("out.csv"), "old")
    with contextlib.suppress(KeyboardInterrupt), on_ray._in_place(out):
        written(parts, "half")
        raise KeyboardInterrupt
    assert not parts.exists()
    assert Path("out.csv/0.csv").read_text() == "old"
    with on_ray._in_place(out) as target:
        assert target == f"{at.format(tmp_path) or f'{tmp_path}/'}{parts}"
        written(parts, "new")
        (parts / "1.csv").write_text("more")
        assert Path("out.csv/0.csv").read_text() == "old"
    assert Path("out.csv/0.csv").read_text() == "new"
    assert sorted(os.listdir("out.csv")) == ["0.csv", "1.csv"]
    assert os.listdir() == ["out.csv"]


@pytest.mark.usefixtures("config")
def test_a_link_to_a_folder_of_parts_stays_one():
    written(Path("real"), "old")
    Path("out.csv").symlink_to("real")
    with on_ray._in_place("out.csv") as target:
        written(Path(target), "new")
    assert (Path("out.csv").is_symlink(), Path("real/0.csv").read_text()) == (True, "new")


@pytest.mark.usefixtures("config")
@pytest.mark.parametrize(
    ("at", "fault"),
    [("", OSError)]
    + [("file://{}/", fault) for fault in (OSError, OfflineError, NotImplementedError)],
)
def test_parts_that_cannot_be_put_into_their_place_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str, fault: type[Exception]
):
    pytest.importorskip("pyarrow", reason="an optional extra")
    rename, out, parts = Path.replace, f"{at.format(tmp_path)}out.csv", Path("out.csv.ray-part")

    def refuse(source: Any, target: Any) -> Path:
        if Path(source).name == parts.name:
            raise fault("busy")
        return rename(source, target)

    monkeypatch.setattr(Path, "replace", refuse)
    monkeypatch.setattr("serving.remote_files.replace_folder", refuse)
    written(Path("out.csv"), "old")
    said = r"cannot be replaced by them \(busy\); what is not there yet is in .*out.csv.ray-part"
    with pytest.raises(OfflineError, match=said), on_ray._in_place(out):
        written(parts, "new")
    assert (parts / "0.csv").read_text() == "new"
    assert Path("out.csv/0.csv").read_text() == "old"
