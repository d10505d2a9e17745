"""`viewfold embed`: a folder of images into one file."""

import asyncio
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving import embed_files, embedding, limits, model, offline
from serving.embed_files import EmbedConfig, embed_folder
from serving.engine import Processors
from serving.form import EmbedForm
from serving.offline import OfflineError
from serving.payload import Item
from serving.predictor import Predictor
from serving.settings import Settings
from serving.vectors import writing
from tests.bundles import write_bundle, write_embedder
from tests.folders import many, photos, spoil
from tests.pictures import BLUE, GREEN, RED

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "embed.md"
COLOURS = {"b/2.png": GREEN, "a.jpg": RED, "b/1.PNG": BLUE, "b/c/deep.webp": (10, 20, 30)}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_embedder(tmp_path_factory.mktemp("embedder"))


@pytest.fixture
def config(encoder: Path, tmp_path: Path) -> EmbedConfig:
    """Settings to embed `photos`, where a test has put some."""
    return EmbedConfig(encoder, tmp_path / "photos", tmp_path / "out.npz", device="cpu", workers=2)


def written(config: EmbedConfig) -> tuple[list[str], Any]:
    with np.load(config.out) as archive:
        assert sorted(archive.files) == ["embeddings", "paths"]
        return archive["paths"].tolist(), archive["embeddings"]


def test_every_image_below_the_folder_is_embedded_in_order(config: EmbedConfig):
    photos(config.folder, COLOURS)
    (config.folder / "notes.txt").write_text("no picture, and not called like one")
    embed_folder(config)
    paths, embeddings = written(config)
    assert paths == sorted(COLOURS)
    assert (embeddings.dtype, embeddings.shape) == (np.float32, (4, 3))
    expected = np.array([COLOURS[path] for path in paths]) / 255
    np.testing.assert_allclose(embeddings, expected, atol=0.02)  # JPEG and WebP lose a little


def test_hidden_files_and_folders_are_left_out(config: EmbedConfig):
    photos(config.folder, {"a.png": RED, "._a.png": RED, ".cache/b.png": RED, "c/.d/e.png": RED})
    embed_folder(config)
    assert written(config)[0] == ["a.png"]


def test_normalized_embeddings_have_length_1(config: EmbedConfig):
    photos(config.folder, {"a.png": RED, "black.png": (0, 0, 0)})
    embed_folder(replace(config, normalize=True))
    expected = [np.array(RED) / np.linalg.norm(RED), [0, 0, 0]]
    np.testing.assert_allclose(written(config)[1], expected, atol=1e-6)


def test_a_folder_and_a_request_get_the_same_vectors(config: EmbedConfig, processors: Processors):
    many(config.folder, 5)
    embed_folder(config)
    loaded = model.load(Settings(config.bundle, device="cpu"), processors)
    files = [Item(path.read_bytes()) for path in sorted(config.folder.iterdir())]
    answer = asyncio.run(embedding.embed(loaded, EmbedForm(tuple(files), True, None, None, False)))
    np.testing.assert_array_equal(written(config)[1], np.array(answer["embeddings"], np.float32))


@pytest.mark.parametrize("count", [1, 3, 4, 5, 23])
def test_batches_keep_the_order_whatever_their_number(
    config: EmbedConfig, monkeypatch: pytest.MonkeyPatch, count: int
):
    monkeypatch.setattr(limits, "_BATCH_IMAGES", 4)
    many(config.folder, count)
    embed_folder(config)
    paths, embeddings = written(config)
    assert paths == [f"{n:03}.png" for n in range(count)]
    np.testing.assert_allclose(embeddings[:, 0] * 255, np.arange(count), atol=1e-4)


def test_images_are_not_decoded_far_ahead_of_the_network(
    config: EmbedConfig, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(limits, "_BATCH_IMAGES", 4)
    many(config.folder, 40)
    read, predict = offline._pixels, Predictor.predict
    started: list[str] = []
    ahead: list[int] = []

    def counted(place: str, *rest: Any) -> Any:
        started.append(place)
        return read(place, *rest)

    def seen(self: Predictor, images: Any, mode: str) -> Any:
        ahead.append(len(started) - 4 * len(ahead))
        return predict(self, images, mode)

    monkeypatch.setattr(offline, "_pixels", counted)
    monkeypatch.setattr(Predictor, "predict", seen)
    embed_folder(config)
    assert len(ahead) == 10
    assert max(ahead) <= 4 * (1 + offline._AHEAD)


def test_unreadable_files_are_named_and_left_out_and_the_rest_is_written(config: EmbedConfig):
    spoil(many(config.folder, 6))
    with pytest.raises(OfflineError) as caught:
        embed_folder(config)
    said = str(caught.value)
    assert "4 of 10 images cannot be read and are left out" in said
    assert "give --skip-unreadable" in said
    for name in ("002-empty.png: the image is empty", "002-text.png: not an", "004-half.png: "):
        assert f"\n  {name}" in said
    paths, embeddings = written(config)
    assert paths == [f"{n:03}.png" for n in range(6)]
    np.testing.assert_allclose(embeddings[:, 0] * 255, np.arange(6), atol=1e-4)


def test_unreadable_files_may_be_skipped(
    config: EmbedConfig, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(limits, "_BATCH_IMAGES", 1)  # batches in which nothing is left
    spoil(many(config.folder, 6))
    embed_folder(replace(config, skip_unreadable=True))
    assert "002-text.png: not an image" in capsys.readouterr().out
    assert len(written(config)[0]) == 6


def test_file_that_vanishes_on_the_way_is_named(
    config: EmbedConfig, monkeypatch: pytest.MonkeyPatch
):
    many(config.folder, 3)
    found = [*offline.images_in(config.folder), config.folder / "gone.png"]
    monkeypatch.setattr(embed_files, "images_in", lambda root: found)
    with pytest.raises(OfflineError, match=r"gone\.png: No such file or directory"):
        embed_folder(config)
    assert len(written(config)[0]) == 3


def test_only_the_first_ten_are_named(config: EmbedConfig):
    many(config.folder, 1)
    for number in range(12):
        (config.folder / f"bad{number:02}.png").write_text("text")
    with pytest.raises(OfflineError, match=r"(?s)bad09\.png.*and 2 more$") as caught:
        embed_folder(config)
    assert "bad10" not in str(caught.value)


def test_nothing_is_written_where_nothing_can_be_read(config: EmbedConfig, tmp_path: Path):
    (config.folder).mkdir()
    (config.folder / "a.png").write_text("text")
    with pytest.raises(OfflineError, match=r"none of the 1 images .*\n  a\.png: not an image"):
        embed_folder(replace(config, skip_unreadable=True))
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


@pytest.mark.parametrize(
    ("prepare", "changed", "said"),
    [
        (lambda root: None, {}, "photos is no folder"),
        (lambda root: (root / "photos").write_text(""), {}, "photos is no folder"),
        (lambda root: (root / "photos").mkdir(), {}, r"has no images \(\.avif, "),
        (lambda root: many(root / "photos", 1), {"out": "out.npy"}, "called something.npz"),
        (lambda root: many(root / "photos", 1), {"out": "no/out.npz"}, "there is no folder"),
        (lambda root: many(root / "photos", 1), {"workers": 0}, "--workers is 0"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(
    config: EmbedConfig,
    tmp_path: Path,
    prepare: Callable[[Path], object],
    changed: dict[str, Any],
    said: str,
):
    prepare(tmp_path)
    if "out" in changed:
        changed = {"out": tmp_path / changed["out"]}
    with pytest.raises(OfflineError, match=said):
        embed_folder(replace(config, **changed))
    assert {path.name for path in tmp_path.iterdir()} <= {"photos"}


def test_a_classifiers_bundle_is_refused(config: EmbedConfig, tmp_path: Path):
    many(config.folder, 1)
    with pytest.raises(OfflineError, match="is a classifier's bundle and gives no embeddings"):
        embed_folder(replace(config, bundle=write_bundle(tmp_path / "classifier")))


def test_a_file_that_is_there_is_replaced_only_on_request(config: EmbedConfig):
    many(config.folder, 2)
    config.out.write_text("years of work")
    with pytest.raises(OfflineError, match="--overwrite replaces"):
        embed_folder(config)
    assert config.out.read_text() == "years of work"
    embed_folder(replace(config, overwrite=True))
    assert len(written(config)[0]) == 2


def test_a_folder_in_the_place_of_the_file_is_left_alone(config: EmbedConfig):
    many(config.folder, 1)
    config.out.mkdir()
    with pytest.raises(OfflineError, match="is there already"):
        embed_folder(replace(config, overwrite=True))


@pytest.mark.parametrize("fault", [RuntimeError, KeyboardInterrupt])
def test_what_fails_half_way_leaves_the_old_file_and_nothing_else(
    config: EmbedConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fault: type[BaseException],
):
    monkeypatch.setattr(limits, "_BATCH_IMAGES", 4)
    many(config.folder, 20)
    config.out.write_text("the old file")
    predict, calls = Predictor.predict, []

    def second_fails(self: Predictor, images: Any, mode: str) -> Any:
        calls.append(len(images))
        if len(calls) == 2:
            assert (tmp_path / ".out.npz.rows").exists()
            raise fault
        return predict(self, images, mode)

    monkeypatch.setattr(Predictor, "predict", second_fails)
    with pytest.raises(fault):
        embed_folder(replace(config, overwrite=True))
    assert config.out.read_text() == "the old file"
    assert {path.name for path in tmp_path.iterdir()} == {"photos", "out.npz"}


def test_vectors_are_on_disk_before_the_block_ends_and_make_a_plain_npz(tmp_path: Path):
    out = tmp_path / "out.npz"
    with writing(out, 2) as vectors:
        for number in range(3):
            vectors.add([f"é{number}"], np.full((1, 2), number, np.float32))
            vectors._file.flush()
            assert (tmp_path / ".out.npz.rows").stat().st_size == 8 * (number + 1)
        assert not out.exists()
    archive = np.load(out, allow_pickle=False)
    np.testing.assert_array_equal(archive["embeddings"], [[0, 0], [1, 1], [2, 2]])
    assert archive["paths"].tolist() == ["é0", "é1", "é2"]
    assert [path.name for path in tmp_path.iterdir()] == ["out.npz"]


def test_neighbours_are_found_as_the_document_says(
    config: EmbedConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    blue = {
        "beach/0412.jpg": (0, 0, 250),
        "beach/other.jpg": (10, 10, 240),
        "sky.png": (30, 20, 200),
    }
    photos(config.folder, {"red.png": RED, "green.png": GREEN} | blue)
    embed_folder(replace(config, normalize=True, out=tmp_path / "photos.npz"))
    blocks = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    (search,) = [block for block in blocks if "np.load" in block]
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    exec(search, {})
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    names = [name for _, name in lines]
    assert names[:3] == ["beach/0412.jpg", "beach/other.jpg", "sky.png"]
    assert lines[0][0] == "1.000"
    assert sorted(names[3:]) == ["green.png", "red.png"]
