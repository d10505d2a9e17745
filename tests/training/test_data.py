import dataclasses
import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving import images
from serving.images import ImageSpec, decode
from tests.pictures import encoded, scene
from tests.training.data_sets import pixels, write_npz, write_pictures
from training.config import DataConfig, absolute_paths
from training.data import check_place, instead_of, known_names, load, may_be_passed_on
from training.errors import DataError
from training.splits import ArrayPictures, FilePictures, Split, hold_out, split_of

SPEC = ImageSpec(8, 8)


def npz(path: Path, **changes: Any) -> DataConfig:
    return DataConfig(data=f"npz:{write_npz(path / 'set.npz', **changes)}")


def refused(config: DataConfig) -> str:
    """The message with which a data set is refused: about one line, naming what is wrong."""
    with pytest.raises(DataError) as caught:
        load(config)
    return str(caught.value)


# digits


def test_digits_are_all_there_in_three_parts():
    found = load(DataConfig())
    assert len(found.train) + len(found.val) + len(found.test) == 1797
    assert found.classes == tuple("0123456789")
    assert found.size == (32, 32)
    assert not found.mirrored_is_same
    pictures = found.train.pixels(0, ImageSpec(32, 32))
    assert pictures.shape == (32, 32, 3)
    assert found.train.pictures.array.max() == 255


def test_only_digits_may_travel_with_a_model():
    assert may_be_passed_on("digits")
    assert not may_be_passed_on("cifar10")


def test_unknown_name_lists_the_valid_ones():
    message = refused(DataConfig(data="cifar11"))
    assert "'cifar11'" in message
    assert all(name in message for name in ("digits", "npz:FILE", "folder:DIR", "cifar10", "mnist"))


def test_about_twenty_torchvision_sets_are_known():
    assert len(known_names()) >= 20 + 3


@pytest.mark.parametrize("kind", ["npz", "folder"])
def test_path_that_is_not_there_is_named(kind: str, tmp_path: Path):
    assert "none.x does not exist" in refused(DataConfig(data=f"{kind}:{tmp_path / 'none.x'}"))


# npz


def test_npz_is_read_with_its_own_test_split_and_a_held_out_validation_split(tmp_path: Path):
    found = load(npz(tmp_path))
    assert (len(found.train), len(found.val), len(found.test)) == (36, 4, 20)
    assert found.size == (8, 8)
    assert found.classes == ("0", "1")
    assert found.mirrored_is_same


def test_npz_with_three_splits_keeps_them(tmp_path: Path):
    found = load(npz(tmp_path, val_images=pixels(6), val_labels=np.arange(6) % 2))
    assert (len(found.train), len(found.val), len(found.test)) == (40, 6, 20)


def test_npz_without_a_test_split_holds_one_out(tmp_path: Path):
    found = load(npz(tmp_path, test_images=None, test_labels=None))
    assert len(found.test) == 8  # 20 % of 40
    assert len(found.train) + len(found.val) == 32


def test_npz_labels_of_one_column_are_labels(tmp_path: Path):
    flat = load(npz(tmp_path))
    column = load(npz(tmp_path, train_labels=(np.arange(40) % 2)[:, None].astype(np.uint8)))
    np.testing.assert_array_equal(column.train.labels, flat.train.labels)
    assert column.train.labels.dtype == np.int64


@pytest.mark.parametrize("shape", [(40, 8, 8), (40, 8, 8, 1)])
def test_npz_grey_pictures_are_repeated_over_the_channels(shape: tuple[int, ...], tmp_path: Path):
    grey = pixels(40)[..., 0].reshape(shape)
    found = load(npz(tmp_path, train_images=grey))
    place = int(found.train.index[0])
    expected = np.repeat(grey.reshape(40, 8, 8)[place][..., None], 3, axis=2)
    np.testing.assert_array_equal(found.train.pixels(0, SPEC), expected)


def test_npz_names_its_classes(tmp_path: Path):
    assert load(npz(tmp_path, classes=np.array(["left", "top"]))).classes == ("left", "top")


def test_npz_pictures_sent_as_files_are_the_same_pictures(tmp_path: Path):
    split = load(npz(tmp_path)).test
    np.testing.assert_array_equal(decode(split.encoded(3), SPEC), split.pixels(3, SPEC))


@pytest.mark.parametrize("key", ["train_images", "train_labels", "test_labels"])
def test_npz_without_a_key_is_refused(key: str, tmp_path: Path):
    message = refused(npz(tmp_path, **{key: None}))
    assert f"has no {key!r}" in message
    assert "test_images" in message  # what it does have


WRONG = {
    "float pixels": ({"train_images": np.zeros((40, 8, 8, 3))}, "train_images is float64"),
    "flat pixels": ({"train_images": np.zeros((40, 192), np.uint8)}, "train_images is uint8"),
    "four channels": ({"train_images": np.zeros((40, 8, 8, 4), np.uint8)}, "(40, 8, 8, 4)"),
    "channels first": ({"train_images": np.zeros((40, 3, 8, 8), np.uint8)}, "(40, 3, 8, 8)"),
    "no height": ({"train_images": np.zeros((40, 0, 8, 3), np.uint8)}, "(40, 0, 8, 3)"),
    "few labels": ({"train_labels": np.zeros(39, np.int64)}, "train_labels is int64 (39,)"),
    "one-hot labels": ({"train_labels": np.zeros((40, 2), np.int64)}, "(40,) or (40, 1)"),
    "float labels": ({"train_labels": np.zeros(40)}, "train_labels is float64"),
    "text labels": ({"train_labels": np.array(["a"] * 40)}, "it must be integers"),
    "negative labels": ({"train_labels": np.arange(40) % 2 - 1}, "negative"),
    "labels gone wrong": ({"train_labels": [10**15, *[0, 1] * 19, 0]}, "go up to 1000000000000000"),
    "one name for all classes": ({"classes": np.array("only")}, "must be a list of names"),
    "names that are no text": ({"classes": np.array(["a", "caf\udce9"])}, "not UTF-8"),
    "labels beyond classes": ({"classes": np.array(["only"])}, "names 1 classes"),
    "one class": ({"train_labels": np.zeros(40, int), "test_labels": np.zeros(20, int)}, "1 class"),
    "sizes that differ": ({"test_images": pixels(20, 16)}, "different sizes"),
    "empty test": ({"test_images": pixels(0), "test_labels": np.zeros(0, int)}, "test split"),
    "empty train": ({"train_images": pixels(0), "train_labels": np.zeros(0, int)}, "train split"),
    "single image of a class": (
        {"train_labels": np.array([1] + [0] * 39), "classes": np.array(["left", "top"])},
        "class top has 1 image, too few to hold one out for the val split; add images, or a val split",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_npz_of_wrong_content_is_refused(what: str, tmp_path: Path):
    changes, words = WRONG[what]
    assert words in refused(npz(tmp_path, **changes))


def damaged_npz(path: Path) -> None:
    write_npz(path)
    data = bytearray(path.read_bytes())
    data[len(data) // 4] ^= 0xFF
    path.write_bytes(bytes(data))


def compressed_and_damaged(path: Path) -> None:
    np.savez_compressed(path, train_images=pixels(40), train_labels=np.arange(40) % 2)
    data = bytearray(path.read_bytes())
    data[200:240] = bytes(40)
    path.write_bytes(bytes(data))


BROKEN = {
    "text": lambda path: path.write_text("not an archive"),
    "nothing": lambda path: path.write_bytes(b""),
    "a plain array": lambda path: path.write_bytes(plain_npy()),
    "cut short": lambda path: path.write_bytes(write_npz(path).read_bytes()[:2000]),
    "a flipped byte": damaged_npz,
    "a damaged stream": compressed_and_damaged,
    "another zip": lambda path: path.write_bytes(zip_of_text()),
    "a folder": lambda path: path.mkdir(),
}


def plain_npy() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, pixels(4))
    return buffer.getvalue()


def zip_of_text() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.txt", "text")
    return buffer.getvalue()


@pytest.mark.parametrize("what", BROKEN)
def test_what_is_no_npz_is_refused(what: str, tmp_path: Path):
    path = tmp_path / "set.npz"
    BROKEN[what](path)
    assert str(path) in refused(DataConfig(data=f"npz:{path}"))


class Trap:
    """Leaves a file behind where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def test_npz_with_pickled_objects_is_refused_and_nothing_is_executed(tmp_path: Path):
    mark = tmp_path / "executed"
    labels = np.array([Trap(mark)] * 40, dtype=object)
    assert "Object arrays cannot be loaded" in refused(npz(tmp_path, train_labels=labels))
    assert not mark.exists()


# folders


def folder(path: Path) -> DataConfig:
    return DataConfig(data=f"folder:{path}")


def test_folder_of_classes_is_split(tmp_path: Path):
    write_pictures(tmp_path / "cat", 10)
    write_pictures(tmp_path / "dog", 20, suffix=".JPG")
    found = load(folder(tmp_path))
    assert found.classes == ("cat", "dog")
    assert found.size is None
    parts = [np.bincount(part.labels).tolist() for part in (found.train, found.val, found.test)]
    assert parts == [[7, 14], [1, 2], [2, 4]]


@pytest.mark.parametrize("names", [("train", "val", "test"), ("training", "valid", "test")])
def test_folder_with_splits_keeps_them(names: tuple[str, str, str], tmp_path: Path):
    for count, name in zip((5, 3, 2), names, strict=True):
        write_pictures(tmp_path / name / "cat", count)
        write_pictures(tmp_path / name / "dog", count)
    found = load(folder(tmp_path))
    assert (len(found.train), len(found.val), len(found.test)) == (10, 6, 4)
    assert "test" in found.test.name(0)


def test_folder_pictures_are_read_as_they_are_served(tmp_path: Path):
    write_pictures(tmp_path / "cat", 4, colour=200)
    write_pictures(tmp_path / "dog", 4)
    split = load(folder(tmp_path)).train
    np.testing.assert_array_equal(split.pixels(0, SPEC), decode(split.encoded(0), SPEC))
    assert split.pixels(0, SPEC)[0, 0, 0] == 200


def test_folder_of_one_class_is_refused(tmp_path: Path):
    write_pictures(tmp_path / "cat", 3)
    message = refused(folder(tmp_path))
    assert "1 class (cat)" in message
    assert "at least 2" in message


def test_folder_that_is_empty_is_refused(tmp_path: Path):
    assert "needs a folder of images for each class" in refused(folder(tmp_path))


@pytest.mark.parametrize(
    ("images", "words"),
    [
        ((9, 1, 9), "class cow has 1 image, too few to hold one out for the test split; add"),
        ((1, 9, 1), "2 classes (cat, dog) have 1 image each, too few to hold one out for the test"),
        (
            (9, 9, 2),
            "class dog has 1 image left after the test split was taken, too few to hold one out for the val split; "
            "add images, or a val split",
        ),
    ],
)
def test_classes_of_too_few_images_to_hold_one_out_are_named(
    images: tuple[int, int, int], words: str, tmp_path: Path
):
    for name, count in zip(("cat", "cow", "dog"), images, strict=True):
        write_pictures(tmp_path / name, count)
    assert words in refused(folder(tmp_path))


def test_three_images_of_a_class_are_one_for_each_split(tmp_path: Path):
    for name in ("cat", "dog"):
        write_pictures(tmp_path / name, 3)
    found = load(folder(tmp_path))
    assert [len(part) for part in (found.train, found.val, found.test)] == [2, 2, 2]


def test_class_without_images_is_named(tmp_path: Path):
    write_pictures(tmp_path / "cat", 3)
    (tmp_path / "dog").mkdir()
    (tmp_path / "dog" / "notes.txt").write_text("none yet")
    assert "for the classes ['dog']" in refused(folder(tmp_path))


def test_strange_folder_in_test_is_named(tmp_path: Path):
    for name in ("train/cat", "train/dog", "test/cat", "test/dog", "test/bird"):
        write_pictures(tmp_path / name, 3)
    assert "no class of the training images: ['bird']" in refused(folder(tmp_path))


def test_file_instead_of_a_folder_is_refused(tmp_path: Path):
    path = tmp_path / "file"
    path.write_text("")
    assert "is a file" in refused(folder(path))


def test_hidden_folders_and_files_are_not_seen(tmp_path: Path):
    for name in ("cat", "dog", ".thumbnails", "cat/.ipynb_checkpoints"):
        write_pictures(tmp_path / name, 4)
    (tmp_path / "dog" / "._0.png").write_bytes(b"what macOS packs beside a picture")
    found = load(folder(tmp_path))
    assert found.classes == ("cat", "dog")
    assert len(found.train) + len(found.val) + len(found.test) == 8


def test_pictures_in_folders_below_a_class_belong_to_it(tmp_path: Path):
    write_pictures(tmp_path / "cat" / "tabby", 4)
    write_pictures(tmp_path / "dog", 4)
    assert (load(folder(tmp_path)).train.labels == 0).sum() == 2


# what is held out


def held(labels: list[int], fraction: float = 0.2, seed: int = 0) -> tuple[Split, Split]:
    return hold_out(split_of(ArrayPictures(pixels(len(labels))), labels), fraction, seed)


def test_held_out_share_is_taken_from_every_class():
    rest, chosen = held([0] * 50 + [1] * 10 + [2] * 4)
    assert np.bincount(chosen.labels).tolist() == [10, 2, 1]
    assert np.bincount(rest.labels).tolist() == [40, 8, 3]


def test_held_out_and_rest_are_disjoint_and_complete():
    rest, chosen = held([0, 1] * 25)
    assert sorted([*rest.index, *chosen.index]) == list(range(50))


@pytest.mark.parametrize("fraction", [0.001, 0.999])
def test_both_sides_keep_every_class(fraction: float):
    rest, chosen = held([0, 0, 1, 1, 1], fraction)
    assert set(rest.labels) == set(chosen.labels) == {0, 1}


def test_same_split_seed_holds_out_the_same_images_and_another_others():
    first, again, other = (held([0, 1] * 50, seed=seed)[1].index for seed in (3, 3, 4))
    assert first.tolist() == again.tolist()
    assert first.tolist() != other.tolist()


def test_split_follows_the_split_seed_of_the_settings(tmp_path: Path):
    config = npz(tmp_path)
    one = load(config).val.index.tolist()
    assert load(config).val.index.tolist() == one
    assert load(dataclasses.replace(config, split_seed=1)).val.index.tolist() != one


def test_labels_stay_with_their_pictures(tmp_path: Path):
    labels = np.arange(40) % 2
    found = load(npz(tmp_path))
    for part in (found.train, found.val):
        np.testing.assert_array_equal(part.labels, labels[part.index])


def test_labels_with_gaps_are_refused(tmp_path: Path):
    path = write_npz(tmp_path / "years.npz", train_labels=[3, 5] * 20)
    with pytest.raises(DataError, match=r"no training images for 4 of 6 classes \(0, 1, 2, 4\)"):
        load(DataConfig(data=f"npz:{path}"))


def test_training_reads_a_folder_at_the_scale_at_which_it_is_served(tmp_path: Path):
    spec = ImageSpec(32, 32)
    path = tmp_path / "a.jpg"
    path.write_bytes(encoded(scene(600, 400), "JPEG"))
    seen = FilePictures([path]).pixels(0, spec)
    np.testing.assert_array_equal(seen, decode(path.read_bytes(), spec))
    whole = images.fit(images.load(images.header(path.read_bytes())), spec)
    assert (seen != whole).any()


def test_place_of_torchvisions_sets_is_for_them_alone():
    where = Path("there")
    assert instead_of(DataConfig(data="cifar10"), None, where).data_dir == where
    assert instead_of(DataConfig(), "cifar10", where).data_dir == where
    for trained_on, given in (("digits", None), ("cifar10", "npz:x.npz")):
        with pytest.raises(DataError, match="--data-dir is for torchvision's data sets"):
            instead_of(DataConfig(data=trained_on), given, where)


@pytest.mark.parametrize("name", ["digits", "npz:x.npz", "folder:x"])
@pytest.mark.parametrize(
    ("flag", "changes"),
    [("--data-dir", {"data_dir": Path("there")}), ("--download", {"download": True})],
)
def test_flags_of_torchvisions_sets_are_refused_beside_other_data(
    name: str, flag: str, changes: dict[str, Any]
):
    check_place(DataConfig(data=name))
    check_place(absolute_paths(DataConfig(data=name)))
    check_place(DataConfig(data="cifar10", **changes))
    with pytest.raises(DataError, match=f"{flag} is for torchvision's data sets, and {name} is"):
        check_place(DataConfig(data=name, **changes))
