import gzip
import inspect
import socket
import struct
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
from numpy.typing import NDArray

from serving.images import ImageSpec
from tests.training.data_sets import pixels, write_pictures
from training import data, torchvision_sets
from training.config import DataConfig
from training.errors import DataError
from training.torchvision_sets import SETS


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any, **options: Any) -> NoReturn:
        raise AssertionError("a test reached for the network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.mark.parametrize("name", sorted(SETS))
def test_constructor_takes_the_arguments_of_the_table(name: str):
    entry = SETS[name]
    assert "train" in entry.splits
    assert set(entry.splits) <= {"train", "val", "test"}
    for arguments in entry.splits.values():
        inspect.signature(entry.open).bind("folder", **arguments, download=False)


@pytest.mark.parametrize("name", sorted(SETS))
def test_empty_folder_is_refused_with_advice(name: str, tmp_path: Path):
    with pytest.raises(DataError) as caught:
        torchvision_sets.load(name, tmp_path, download=False)
    message = str(caught.value)
    assert message.startswith(f"{name}: ")
    assert "--data-dir" in message
    assert ("--download" in message) == SETS[name].downloads
    assert "download=True" not in message
    assert "\n" not in message


def test_set_that_can_no_longer_be_downloaded_says_so(tmp_path: Path):
    with pytest.raises(DataError, match="can no longer be downloaded"):
        torchvision_sets.load("stanford-cars", tmp_path, download=True)


def write_idx(path: Path, array: NDArray[np.uint8]) -> None:
    """MNIST's format: two zero bytes, the type, the number of axes, their lengths, the values."""
    header = struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(header + array.tobytes())


def write_mnist(folder: Path, kind: str = "MNIST") -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    raw = folder / kind / "raw"
    raw.mkdir(parents=True)
    images, labels = pixels(40, 28)[..., 0], (np.arange(40) % 10).astype(np.uint8)
    for prefix in ("train", "t10k"):
        write_idx(raw / f"{prefix}-images-idx3-ubyte", images)
        write_idx(raw / f"{prefix}-labels-idx1-ubyte", labels)
    return images, labels


@pytest.mark.parametrize(
    ("name", "kind", "mirrored"),
    [("mnist", "MNIST", False), ("fashion-mnist", "FashionMNIST", True)],
)
def test_mnist_and_its_relatives_are_read(name: str, kind: str, mirrored: bool, tmp_path: Path):
    images, labels = write_mnist(tmp_path, kind)
    found = data.load(DataConfig(data=name, data_dir=tmp_path))
    assert len(found.classes) == 10
    assert found.size == (28, 28)
    assert found.mirrored_is_same == mirrored
    assert len(found.test) == 40
    assert found.test.labels.tolist() == labels.tolist()
    expected = np.repeat(images[7][..., None], 3, axis=2)
    np.testing.assert_array_equal(found.test.pixels(7, ImageSpec(28, 28)), expected)


@pytest.mark.parametrize(
    "content", [b"", b"\0\0\x08\x03", gzip.compress(b"something else", mtime=0)]
)
def test_damaged_mnist_is_refused(content: bytes, tmp_path: Path):
    write_mnist(tmp_path)
    (tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte").write_bytes(content)
    with pytest.raises(DataError, match=r"^mnist: "):
        torchvision_sets.load("mnist", tmp_path, download=False)


def test_dtd_is_read_with_its_three_splits(tmp_path: Path):
    root = tmp_path / "dtd" / "dtd"
    (root / "labels").mkdir(parents=True)
    for name in ("banded", "woven"):
        write_pictures(root / "images" / name, 6)
    for number, split in enumerate(("train", "val", "test")):
        lines = [f"{name}/{2 * number + k}.png" for name in ("banded", "woven") for k in (0, 1)]
        (root / "labels" / f"{split}1.txt").write_text("\n".join(lines))
    found = data.load(DataConfig(data="dtd", data_dir=tmp_path))
    assert found.classes == ("banded", "woven")
    assert [part.labels.tolist() for part in (found.train, found.val, found.test)] == 3 * [
        [0, 0, 1, 1]
    ]
    greens = [int(part.pixels(0, ImageSpec(8, 8))[0, 0, 1]) for part in (found.val, found.test)]
    assert greens == [2, 4]  # write_pictures numbers its pictures in green


def test_country211_names_its_validation_split_valid(tmp_path: Path):
    for split, count in (("train", 4), ("valid", 2), ("test", 3)):
        for name in ("AD", "AE"):
            write_pictures(tmp_path / "country211" / split / name, count)
    found = data.load(DataConfig(data="country211", data_dir=tmp_path))
    assert found.classes == ("AD", "AE")
    assert (len(found.train), len(found.val), len(found.test)) == (8, 4, 6)


def test_eurosat_without_splits_holds_two_out(tmp_path: Path):
    for name in ("Forest", "River"):
        write_pictures(tmp_path / "eurosat" / "2750" / name, 10)
    found = data.load(DataConfig(data="eurosat", data_dir=tmp_path))
    assert (len(found.train), len(found.val), len(found.test)) == (14, 2, 4)


def test_picture_sent_as_a_file_is_the_picture(tmp_path: Path):
    write_mnist(tmp_path)
    split = data.load(DataConfig(data="mnist", data_dir=tmp_path)).test
    assert split.encoded(0).startswith(b"\x89PNG")
    assert split.name(3) == "image 3"
