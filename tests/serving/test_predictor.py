import ctypes
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from serving import predictor
from serving.bundle import Bundle, BundleError, file_sha256, read
from serving.manifest import Tensor
from serving.predictor import DeviceError, ModeError, Predictor, mode_name
from tests.bundles import SIZE, write_auto, write_bundle, write_embedder, write_manifest
from tests.pictures import BLUE, GREEN, RED

DIM = (100, 90, 80)  # one pass is not sure


def images(*colours: tuple[int, int, int]) -> np.ndarray:
    """(B, H, W, 3) uint8: a picture for each colour."""
    return np.stack([np.full((SIZE, SIZE, 3), colour, dtype=np.uint8) for colour in colours])


@pytest.fixture(scope="module")
def loaded(colours: Path) -> Predictor:
    return Predictor(read(colours), device="cpu", threads=1)


def rewrite(folder: Path, mode: str, **changes: object) -> Bundle:
    """A bundle whose manifest says something else about a mode, and fits its files."""
    manifest = read(write_bundle(folder)).manifest
    changed = replace(manifest.modes[mode], **changes)  # type: ignore[arg-type]
    write_manifest(folder, replace(manifest, modes={**manifest.modes, mode: changed}))
    return read(folder)


@pytest.mark.parametrize("mode", ["distilled", "single", "aggregated"])
def test_each_mode_tells_the_colours_apart(loaded: Predictor, mode: str):
    probabilities = loaded.predict(images(RED, GREEN, BLUE), mode)
    assert probabilities.dtype == np.float32
    assert probabilities.argmax(1).tolist() == [0, 1, 2]
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-6)


def test_probabilities_are_the_softmax_of_the_scaled_means(loaded: Predictor):
    logits = np.array(RED) * 16 / 255
    expected = np.exp(logits) / np.exp(logits).sum()
    np.testing.assert_allclose(loaded.predict(images(RED), "single")[0], expected, atol=1e-5)


def test_embeddings_are_what_the_graph_says(tmp_path: Path):
    embedder = Predictor(read(write_embedder(tmp_path)), device="cpu")
    found = embedder.predict(images(RED, GREEN), "embed")
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, np.array([RED, GREEN]) / 255, atol=1e-6)


def test_embeddings_of_another_size_than_the_graphs_are_refused(tmp_path: Path):
    manifest = read(write_embedder(tmp_path)).manifest
    wider = (Tensor("embeddings", "float32", (None, 4)),)
    mode = replace(manifest.modes["embed"], outputs=wider)
    write_manifest(tmp_path, replace(manifest, modes={"embed": mode}))
    with pytest.raises(BundleError, match=r"embed\.onnx: its outputs are not those"):
        Predictor(read(tmp_path), device="cpu")


@pytest.mark.parametrize("outputs", [("float16", 3), ("float32", 4)])
def test_modes_that_embed_otherwise_are_refused(tmp_path: Path, outputs: tuple[str, int]):
    manifest = read(write_embedder(tmp_path)).manifest
    other = replace(
        manifest.modes["embed"], outputs=(Tensor("embeddings", outputs[0], (None, outputs[1])),)
    )
    write_manifest(tmp_path, replace(manifest, modes={**manifest.modes, "half": other}))
    with pytest.raises(BundleError, match=r"mode 'half' does not turn.*embeddings of 3 numbers"):
        Predictor(read(tmp_path), device="cpu")


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_an_image_scores_the_same_alone_and_in_a_batch(loaded: Predictor, batch: int):
    pictures = np.random.default_rng(0).integers(0, 256, (batch, SIZE, SIZE, 3), dtype=np.uint8)
    for mode in loaded.manifest.modes:
        alone = np.concatenate([loaded.predict(picture[None], mode) for picture in pictures])
        np.testing.assert_allclose(loaded.predict(pictures, mode), alone, atol=1e-6)


def test_mode_name_is_the_default_where_none_is_given(loaded: Predictor):
    assert mode_name(loaded.manifest, None) == "distilled"
    assert loaded.mode_name("aggregated") == "aggregated"


def test_unknown_mode_lists_the_known_ones(loaded: Predictor):
    with pytest.raises(ModeError, match=r"'auto'.*\['aggregated', 'distilled', 'single'\]"):
        loaded.mode_name("auto")


def test_only_the_modes_asked_for_are_loaded(colours: Path):
    one = Predictor(read(colours), device="cpu", modes=["single"])
    assert one.predict(images(GREEN), "single").argmax() == 1
    with pytest.raises(KeyError):
        one.predict(images(GREEN), "aggregated")


def test_warm_up_runs_every_session(colours: Path, monkeypatch: pytest.MonkeyPatch):
    fresh, ran = Predictor(read(colours), device="cpu", threads=2, concurrent=True), set()

    def run(graph: str, feeds: Any, outputs: Any, *, alone: bool) -> list[Any]:
        ran.add((graph, feeds["images"].shape, alone))
        return []

    monkeypatch.setattr(fresh, "run", run)
    fresh.warm_up()
    shape = (1, SIZE, SIZE, 3)
    assert ran == {(mode, shape, alone) for mode in fresh.manifest.modes for alone in (True, False)}


def test_small_network_has_a_session_of_one_thread_for_calls_beside_others(
    colours: Path, monkeypatch: pytest.MonkeyPatch
):
    def threads(**options: Any) -> list[int]:
        made = Predictor(read(colours), device="cpu", threads=2, **options)
        return [
            sessions["distilled"].get_session_options().intra_op_num_threads
            for sessions in (made._sessions, made._crowded)
        ]

    assert threads() == [2, 2]
    assert threads(concurrent=True) == [2, 1]
    monkeypatch.setattr(predictor, "_SMALL_BYTES", 0)
    assert threads(concurrent=True) == [2, 2]


@pytest.mark.parametrize("mode", ["distilled", "aggregated"])
def test_a_call_alone_and_one_beside_others_say_the_same(colours: Path, mode: str):
    made = Predictor(read(colours), device="cpu", threads=2, concurrent=True)
    feeds = {"images": images(RED, GREEN)}
    (alone,), (beside,) = (
        made.run(mode, feeds, ["probabilities"], alone=value) for value in (True, False)
    )
    np.testing.assert_allclose(alone, beside, atol=1e-5)


@pytest.mark.parametrize("every", [1, 2])
def test_bound_to_a_device_of_its_own_it_says_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: int
):
    made = Predictor(read(write_auto(tmp_path)), device="cpu", threads=1)
    pictures = images(RED, RED, DIM, DIM, GREEN, GREEN)[::every]
    expected = {mode: made.answer(pictures, mode) for mode in made.modes}
    assert len(set(expected["auto"].passes)) == 2  # some are asked again, with two inputs
    monkeypatch.setattr(made, "provider", predictor._CUDA)  # the same way, as far as a CPU goes it
    monkeypatch.setattr(onnxruntime.InferenceSession, "run", None)
    for mode, answered in expected.items():
        found = made.answer(pictures, mode)
        np.testing.assert_array_equal(found.values, answered.values)
        np.testing.assert_array_equal(found.passes, answered.passes)


def test_auto_takes_the_cpu_where_there_is_no_gpu(colours: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(predictor, "_missing_cuda", lambda: "there is no GPU")
    assert Predictor(read(colours), device="auto").provider == "CPUExecutionProvider"


def test_cuda_without_a_driver_is_an_error(colours: Path, monkeypatch: pytest.MonkeyPatch):
    def no_library(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(ctypes, "CDLL", no_library)
    with pytest.raises(DeviceError, match="no NVIDIA driver"):
        Predictor(read(colours), device="cuda")


def test_cuda_without_its_provider_is_an_error(colours: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(DeviceError, match="install onnxruntime-gpu"):
        Predictor(read(colours), device="cuda")


def test_session_that_is_not_on_cuda_after_all_is_an_error(
    colours: Path, monkeypatch: pytest.MonkeyPatch
):
    session = onnxruntime.InferenceSession
    monkeypatch.setattr(predictor, "provider", lambda device: "CUDAExecutionProvider")
    monkeypatch.setattr(
        onnxruntime,
        "InferenceSession",
        lambda path, options, providers: session(path, options, providers=["CPUExecutionProvider"]),
    )
    with pytest.raises(DeviceError, match=r"runs distilled\.onnx on CPUExecutionProvider"):
        Predictor(read(colours), device="cuda")
    assert Predictor(read(colours), device="auto").provider == "CPUExecutionProvider"


@pytest.mark.parametrize(
    "tensor",
    [
        Tensor("pixels", "uint8", (None, SIZE, SIZE, 3)),
        Tensor("images", "float32", (None, SIZE, SIZE, 3)),
        Tensor("images", "uint8", (None, SIZE, SIZE, 1)),
        Tensor("images", "uint8", (1, SIZE, SIZE, 3)),
        Tensor("images", "uint8", (None, 3)),
    ],
)
def test_mode_that_does_not_take_the_manifests_images_is_refused(tmp_path: Path, tensor: Tensor):
    altered = rewrite(tmp_path, "single", inputs=(tensor,))
    with pytest.raises(BundleError, match="mode 'single' does not turn"):
        Predictor(altered, device="cpu")


def test_mode_that_answers_for_other_classes_is_refused(tmp_path: Path):
    altered = read(write_bundle(tmp_path, classes=("red", "green", "blue", "white")))
    with pytest.raises(BundleError, match="mode 'distilled' does not turn"):
        Predictor(altered, device="cpu")


def test_graph_of_another_size_than_the_manifest_is_refused(tmp_path: Path):
    manifest = read(write_bundle(tmp_path)).manifest
    pixels = Tensor("images", "uint8", (None, 64, 64, 3))
    modes = {name: replace(mode, inputs=(pixels,)) for name, mode in manifest.modes.items()}
    image = {**manifest.image, "height": 64, "width": 64}
    write_manifest(tmp_path, replace(manifest, modes=modes, image=image))
    with pytest.raises(BundleError, match=r"distilled\.onnx: its inputs are not those"):
        Predictor(read(tmp_path), device="cpu")


def test_graph_with_other_outputs_than_the_manifest_is_refused(tmp_path: Path):
    outputs = read(write_bundle(tmp_path)).manifest.modes["aggregated"].outputs
    altered = rewrite(tmp_path, "single", outputs=outputs)
    with pytest.raises(BundleError, match=r"single\.onnx: its outputs are not those"):
        Predictor(altered, device="cpu")


def test_file_that_is_no_graph_is_refused(tmp_path: Path):
    write_bundle(tmp_path)
    (tmp_path / "junk.onnx").write_bytes(b"not a graph")
    digest = file_sha256(tmp_path / "junk.onnx")
    altered = rewrite(tmp_path, "single", file="junk.onnx", sha256=digest)
    with pytest.raises(BundleError, match=r"junk\.onnx: onnxruntime cannot load it"):
        Predictor(altered, device="cpu")


@pytest.mark.parametrize(
    "image", [{}, {"height": 0, "width": 32}, {"height": 32, "width": 32, "resize": "squeeze"}]
)
def test_image_section_that_says_nothing_is_refused(tmp_path: Path, image: dict[str, object]):
    altered = read(write_bundle(tmp_path, image=image))
    with pytest.raises(BundleError, match="image section is malformed"):
        Predictor(altered, device="cpu")


# of the bundle with `auto`: the first pass is surer of RED than the threshold, and not of this
DIM = (100, 90, 80)


def ran(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """A list that will hold the graphs that are run, each with its batch."""
    found, run = [], predictor.run

    def note(graph: str, feeds: dict[str, np.ndarray], outputs: list[str]) -> list[np.ndarray]:
        found.append((graph, len(feeds["images"])))
        return run(graph, feeds, outputs)

    monkeypatch.setattr(predictor, "run", note)
    return found


@pytest.mark.parametrize("shared", [True, False])
def test_auto_runs_the_rest_for_images_in_doubt_alone(
    tmp_path: Path, shared: bool, monkeypatch: pytest.MonkeyPatch
):
    auto = Predictor(read(write_auto(tmp_path, shared=shared)), device="cpu", threads=1)
    pictures = images(RED, DIM, GREEN, DIM, DIM)
    once, all_copies = (auto.predict(pictures, mode) for mode in ("distilled", "aggregated"))
    graphs = ran(auto, monkeypatch)
    found = auto.answer(pictures, "auto")
    assert graphs == [("distilled", 5), ("auto_rest" if shared else "aggregated", 3)]
    doubt = np.array([False, True, False, True, True])
    np.testing.assert_array_equal(found.values[~doubt], once[~doubt])
    np.testing.assert_allclose(found.values[doubt], all_copies[doubt], atol=1e-6)
    assert abs(once - all_copies).max() > 0.1  # so that the test could tell
    dear = 4 if shared else 5
    assert found.passes.tolist() == [1, dear, 1, dear, dear]


def test_auto_without_doubt_is_one_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    auto = Predictor(read(write_auto(tmp_path, threshold=0)), device="cpu", threads=1)
    graphs = ran(auto, monkeypatch)
    assert auto.answer(images(RED, DIM), "auto").passes.tolist() == [1, 1]
    assert graphs == [("distilled", 2)]


def test_auto_in_doubt_of_everything_is_aggregated(tmp_path: Path):
    auto = Predictor(read(write_auto(tmp_path, threshold=1)), device="cpu", threads=1)
    pictures = images((255, 0, 0), RED, DIM)
    found, expected = (auto.predict(pictures, mode) for mode in ("auto", "aggregated"))
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_auto_alone_loads_the_graphs_that_it_needs(tmp_path: Path):
    auto = Predictor(read(write_auto(tmp_path)), device="cpu", modes=["auto"])
    assert auto.modes == ("auto",)
    auto.warm_up()
    assert auto.predict(images(DIM), "auto").argmax() == 0
    with pytest.raises(KeyError):
        auto.predict(images(DIM), "aggregated")


def test_auto_can_be_what_answers_by_default(tmp_path: Path):
    bundle = read(write_auto(tmp_path, default_mode="auto"))
    assert bundle.manifest.mode_names == ("distilled", "aggregated", "auto")
    assert mode_name(bundle.manifest, None) == "auto"
    assert bundle.manifest.answer.name == "probabilities"


def test_rest_that_takes_something_else_is_refused(tmp_path: Path):
    manifest = read(write_auto(tmp_path)).manifest
    assert manifest.auto is not None
    assert manifest.auto.rest is not None
    rest = replace(manifest.auto.rest, inputs=manifest.auto.rest.inputs[:1])
    write_manifest(tmp_path, replace(manifest, auto=replace(manifest.auto, rest=rest)))
    with pytest.raises(BundleError, match="the rest of auto does not turn"):
        Predictor(read(tmp_path), device="cpu")


def test_threads_leave_the_processor_when_nothing_runs(
    colours: Path, monkeypatch: pytest.MonkeyPatch
):
    session, seen = onnxruntime.InferenceSession, []

    def note(path: Path, options: onnxruntime.SessionOptions, providers: list[str]) -> object:
        seen.append(options.get_session_config_entry("session.force_spinning_stop"))
        return session(path, options, providers=providers)

    monkeypatch.setattr(onnxruntime, "InferenceSession", note)
    Predictor(read(colours), device="cpu", modes=["single"])
    assert seen == ["1"]
