import hashlib
import json
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from serving.bundle import FORMAT, MANIFEST, BundleError, encode, parse, read
from tests.bundles import write_auto, write_bundle, write_embedder, write_manifest


def altered(text: str, change: Callable[[dict[str, Any]], object]) -> str:
    """A manifest's text with something changed in it, under a digest that fits."""
    content = json.loads(text)
    del content["digest"]
    change(content)
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return json.dumps({**content, "digest": hashlib.sha256(canonical.encode()).hexdigest()})


def test_read_gives_back_what_was_encoded(colours: Path):
    manifest = read(colours).manifest
    assert manifest.classes == ("red", "green", "blue")
    assert manifest.modes["aggregated"].forward_passes == 4
    assert manifest.modes["distilled"].inputs[0].shape == (None, 32, 32, 3)
    assert list(manifest.samples) == ["samples/red.png"]
    assert parse(encode(manifest)) == manifest


def test_every_field_comes_back(tmp_path: Path):
    manifest = read(write_auto(tmp_path)).manifest
    manifest = replace(
        manifest,
        weights={"weights.bin": "0"},
        calibration={"images": 60},
        precision={"name": "int8"},
    )
    for field in fields(manifest):
        assert getattr(manifest, field.name), f"{field.name} is empty here and shows nothing"
        assert getattr(parse(encode(manifest)), field.name) == getattr(manifest, field.name)


def test_graph_is_the_path_of_the_modes_file(colours: Path):
    assert read(colours).graph("single") == colours / "single.onnx"


def test_encode_keeps_names_that_are_not_ascii(colours: Path):
    manifest = replace(read(colours).manifest, classes=("rød", "grün", "青"))
    assert "青" in encode(manifest)
    assert parse(encode(manifest).encode()) == manifest


def test_folder_without_a_manifest_is_not_a_bundle(tmp_path: Path):
    with pytest.raises(BundleError, match=r"is not a bundle: it has no manifest\.json"):
        read(tmp_path)


def test_folder_that_does_not_exist_is_not_a_bundle(tmp_path: Path):
    with pytest.raises(BundleError, match="is not a bundle"):
        read(tmp_path / "nothing")


@pytest.mark.parametrize(
    "name", [MANIFEST, "distilled.onnx", "single.onnx", "aggregated.onnx", "samples/red.png"]
)
@pytest.mark.parametrize("place", [0.0, 0.5, 0.99])
def test_one_flipped_bit_in_any_file_is_noticed(tmp_path: Path, name: str, place: float):
    path = write_bundle(tmp_path) / name
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 1
    path.write_bytes(content)
    with pytest.raises(BundleError, match=name.replace(".", r"\.")):
        read(tmp_path)


def test_graph_that_is_missing_is_named(tmp_path: Path):
    (write_bundle(tmp_path) / "aggregated.onnx").unlink()
    with pytest.raises(BundleError, match=r"aggregated\.onnx is missing"):
        read(tmp_path)


def test_shared_weights_are_checked_too(tmp_path: Path):
    manifest = read(write_bundle(tmp_path)).manifest
    (tmp_path / "weights.bin").write_bytes(b"weights")
    digest = hashlib.sha256(b"weights").hexdigest()
    write_manifest(tmp_path, replace(manifest, weights={"weights.bin": digest}))
    assert read(tmp_path).manifest.weights == {"weights.bin": digest}
    (tmp_path / "weights.bin").write_bytes(b"weighty")
    with pytest.raises(BundleError, match=r"weights\.bin: sha256"):
        read(tmp_path)


def test_newer_format_asks_for_a_newer_viewfold(colours: Path):
    text = altered(
        (colours / MANIFEST).read_text(), lambda content: content.update(format=FORMAT + 1)
    )
    with pytest.raises(BundleError, match=f"of format {FORMAT + 1}.*install a newer viewfold"):
        parse(text)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "{}", '{"format": "1"}', b"\xff\xfe", "[" * 200_000]
)
def test_what_is_no_manifest_is_refused(text: str | bytes):
    with pytest.raises(BundleError, match=r"manifest\.json"):
        parse(text)


def test_edited_manifest_without_a_new_digest_is_refused(colours: Path):
    text = (colours / MANIFEST).read_text().replace('"red"', '"cat"')
    with pytest.raises(BundleError, match="was altered"):
        parse(text)


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content.pop("classes"),
        lambda content: content.update(task="dance"),
        lambda content: content.update(modes={}),
        lambda content: content.update(modes=[]),
        lambda content: content.update(default_mode="auto"),
        lambda content: content["modes"]["single"].pop("sha256"),
        lambda content: content["modes"]["single"].update(surprise=1),
        lambda content: content["modes"]["single"]["inputs"][0].pop("shape"),
        lambda content: content["modes"].update(single=None),
        lambda content: content.update(weights=None),
        lambda content: content.update(image=None),
        lambda content: content.update(classes=[]),
        lambda content: content.update(classes=[0, 1, 2]),
        lambda content: content.update(transformations=[None] * 4),
        lambda content: content.update(transformations=content["transformations"][:2]),
        lambda content: content["modes"]["single"].update(file=5),
        lambda content: content["modes"]["single"].update(sha256=None),
        lambda content: content["modes"]["single"].update(metrics=None),
        lambda content: content["modes"]["single"].update(inputs={}),
        lambda content: content["modes"]["single"].update(outputs=[None]),
        lambda content: content["modes"]["single"]["outputs"][0].update(name=1),
        lambda content: content["modes"]["single"].update(forward_passes=0),
        lambda content: content["modes"]["single"].update(forward_passes=True),
        lambda content: content["modes"]["single"].update(forward_passes=1.5),
        lambda content: content["modes"]["single"].update(temperature="1"),
        lambda content: content["modes"]["single"].update(temperature=0),
        lambda content: content["modes"]["single"].update(temperature=float("inf")),
    ],
)
def test_malformed_manifest_is_one_sentence(
    tmp_path: Path, change: Callable[[dict[str, Any]], object]
):
    path = write_bundle(tmp_path) / MANIFEST
    path.write_text(altered(path.read_text(), change))
    with pytest.raises(BundleError, match="malformed"):
        read(tmp_path)


def test_bundle_that_embeds_says_how_many_numbers(tmp_path: Path, colours: Path):
    manifest = read(write_embedder(tmp_path)).manifest
    assert (manifest.task, manifest.classes, list(manifest.modes)) == ("embed", (), ["embed"])
    assert (manifest.answer.name, manifest.dimensions) == ("embeddings", 3)
    assert parse(encode(manifest)) == manifest
    assert read(colours).manifest.dimensions is None


def rename_outputs(content: dict[str, Any], name: str) -> None:
    for mode in content["modes"].values():
        mode["outputs"][0]["name"] = name


def reshape_outputs(content: dict[str, Any], shape: list[Any]) -> None:
    for mode in content["modes"].values():
        mode["outputs"][0]["shape"] = shape


@pytest.mark.parametrize(
    ("write", "change", "said"),
    [
        (write_bundle, lambda content: content.update(task="embed"), "neither classes nor"),
        (
            write_bundle,
            lambda content: content.update(task="embed", classes=[], transformations=[]),
            r"answers with \['probabilities'\], not with 'embeddings'",
        ),
        (write_bundle, lambda content: rename_outputs(content, "embeddings"), "not with 'prob"),
        (write_bundle, lambda content: rename_outputs(content, "logits"), r"answers with \[\]"),
        (write_embedder, lambda content: content.update(task="classify"), "there are no classes"),
        (
            write_embedder,
            lambda content: content.update(task="classify", classes=["a", "b", "c"]),
            "not with 'probabilities'",
        ),
        (write_embedder, lambda content: content.update(classes=["cat"]), "neither classes nor"),
        (write_embedder, lambda content: content.update(transformations=["identity"]), "neither"),
        (write_embedder, lambda content: rename_outputs(content, "probabilities"), "not with 'emb"),
        (write_embedder, lambda content: reshape_outputs(content, [None]), "the shape"),
        (write_embedder, lambda content: reshape_outputs(content, [None, None]), "the shape"),
        (write_embedder, lambda content: reshape_outputs(content, [None, 0]), "the shape"),
        (write_embedder, lambda content: reshape_outputs(content, [None, 3, 3]), "the shape"),
    ],
)
def test_manifest_that_mixes_tasks_is_refused(
    tmp_path: Path,
    write: Callable[[Path], Path],
    change: Callable[[dict[str, Any]], object],
    said: str,
):
    path = write(tmp_path) / MANIFEST
    path.write_text(altered(path.read_text(), change))
    with pytest.raises(BundleError, match=f"malformed.*{said}"):
        read(tmp_path)


@pytest.mark.parametrize("name", ["../outside.onnx", "/etc/hostname", "folder/graph.onnx", "", "."])
def test_files_outside_the_bundle_are_refused(tmp_path: Path, name: str):
    path = write_bundle(tmp_path) / MANIFEST
    path.write_text(
        altered(path.read_text(), lambda content: content["modes"]["single"].update(file=name))
    )
    with pytest.raises(BundleError, match=r"outside the bundle|missing"):
        read(tmp_path)


def as_format_1(content: dict[str, Any]) -> None:
    content["format"] = 1
    for name in ("auto", "calibration", "precision"):
        del content[name]


def test_format_1_is_read_and_has_no_auto(tmp_path: Path):
    path = write_bundle(tmp_path) / MANIFEST
    path.write_text(altered(path.read_text(), as_format_1))
    manifest = read(tmp_path).manifest
    assert (manifest.auto, manifest.calibration) == (None, {})
    assert manifest.mode_names == ("distilled", "single", "aggregated")


@pytest.mark.parametrize("name", ["auto", "calibration", "precision"])
def test_format_2_without_what_it_has_is_malformed(tmp_path: Path, name: str):
    path = write_bundle(tmp_path) / MANIFEST
    path.write_text(altered(path.read_text(), lambda content: content.pop(name)))
    with pytest.raises(BundleError, match=f"malformed.*{name}"):
        read(tmp_path)


def test_the_rest_of_auto_is_checked_like_every_graph(tmp_path: Path):
    path = write_auto(tmp_path) / "auto_rest.onnx"
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(BundleError, match=r"auto_rest\.onnx: sha256"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda auto: auto.update(threshold=1.01), "threshold is 1.01, not a number from 0 to 1"),
        (lambda auto: auto.update(threshold=-0.1), "threshold"),
        (lambda auto: auto.update(threshold="0.5"), "threshold"),
        (lambda auto: auto.update(threshold=True), "threshold"),
        (lambda auto: auto.update(threshold=float("nan")), "threshold"),
        (lambda auto: auto.update(escalation_rate=2), "escalation_rate"),
        (lambda auto: auto.update(forward_passes=0.5), "forward_passes"),
        (lambda auto: auto.update(forward_passes=5.5), "forward_passes"),
        (lambda auto: auto.update(first="single"), "needs the mode 'single'"),
        (lambda auto: auto.update(first="aggregated"), "cannot begin with 'aggregated'"),
        (lambda auto: auto.pop("first"), "first"),
        (lambda auto: auto.update(surprise=1), "surprise"),
        (lambda auto: auto.update(metrics=[]), "metrics"),
        (lambda auto: auto.update(calibration=None), "calibration"),
        (lambda auto: auto["rest"].pop("sha256"), "sha256"),
        (lambda auto: auto.update(rest="auto_rest.onnx"), "TypeError"),
    ],
)
def test_auto_that_cannot_be_is_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], said: str
):
    path = write_auto(tmp_path) / MANIFEST
    path.write_text(altered(path.read_text(), lambda content: change(content["auto"])))
    with pytest.raises(BundleError, match=f"malformed.*{said}"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda content: content["modes"].pop("aggregated"), "needs the mode 'aggregated'"),
        (lambda content: content.update(auto="yes"), "malformed"),
        (lambda content: content.update(auto=None, default_mode="auto"), "default_mode 'auto'"),
        (
            lambda content: content["modes"].update(auto=content["modes"]["distilled"]),
            r"\['auto'\] cannot be the name",
        ),
    ],
)
def test_bundle_around_auto_that_cannot_be_is_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], said: str
):
    path = write_auto(tmp_path) / MANIFEST
    path.write_text(altered(path.read_text(), change))
    with pytest.raises(BundleError, match=said):
        read(tmp_path)


def test_encoder_has_no_auto(tmp_path: Path):
    other = read(write_auto(tmp_path / "auto")).manifest.auto
    write_embedder(tmp_path / "embed", auto=other)
    with pytest.raises(BundleError, match="an encoder has no mode 'auto'"):
        read(tmp_path / "embed")
