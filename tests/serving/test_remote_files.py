"""Files at addresses, through pyarrow."""

from pathlib import Path

import pytest

from serving import remote_files
from serving.offline import OfflineError
from tests.folders import photos
from tests.pictures import RED

pytest.importorskip("pyarrow", reason="an optional extra")


def test_images_below_an_address_are_found_in_order_and_read(tmp_path: Path):
    photos(tmp_path / "a b", {"2.png": RED, "1/#x%.jpg": RED, ".h.png": RED, "1/.d/e.png": RED})
    (tmp_path / "a b" / "notes.txt").write_text("no picture")
    root = f"file://{tmp_path}/a%20b"
    found = remote_files.images_at(f"{root}/")
    assert found == [f"{root}/1/%23x%25.jpg", f"{root}/2.png"]
    assert remote_files.read(found[0]) == (tmp_path / "a b" / "1" / "#x%.jpg").read_bytes()
    assert remote_files.images_at(found[1]) == [found[1]]


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("file://{}/lost", "cannot be read"),
        ("file://{}/empty", "has no images"),
        ("gopher://{}/x", "cannot be reached"),
    ],
)
def test_what_cannot_be_found_is_one_sentence(tmp_path: Path, address: str, said: str):
    (tmp_path / "empty").mkdir()
    with pytest.raises(OfflineError, match=said):
        remote_files.images_at(address.format(tmp_path))


def test_file_that_is_gone_cannot_be_read(tmp_path: Path):
    with pytest.raises(OSError, match="lost"):
        remote_files.read(f"file://{tmp_path}/lost.png")


def test_folder_is_there_until_it_is_deleted(tmp_path: Path):
    address = f"file://{tmp_path}/parts"
    assert not remote_files.exists(address)
    photos(tmp_path / "parts", {"a.png": RED})
    assert remote_files.exists(address)
    remote_files.delete_folder(address)
    assert not (tmp_path / "parts").exists()


def test_files_and_folders_are_told_apart(tmp_path: Path):
    photos(tmp_path / "parts", {"a.png": RED})
    assert remote_files.is_file(f"file://{tmp_path}/parts/a.png")
    assert not remote_files.is_file(f"file://{tmp_path}/parts")
    assert remote_files.names(f"file://{tmp_path}/parts/") == ["a.png"]
    with pytest.raises(OfflineError, match="cannot be read"):
        remote_files.names(f"file://{tmp_path}/lost")


def test_what_a_folder_held_is_replaced_as_a_whole(tmp_path: Path):
    photos(tmp_path / "old", {"a.png": RED, "b.png": RED})
    photos(tmp_path / "new", {"c.png": RED})
    remote_files.replace_folder(f"file://{tmp_path}/new", f"file://{tmp_path}/old")
    assert [path.name for path in (tmp_path / "old").iterdir()] == ["c.png"]
    assert not (tmp_path / "new").exists()
