"""A loaded bundle's modes as coroutines, together with other requests."""

import asyncio
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.bundle import read
from serving.engine import Answer, Engine, Processors
from serving.limits import images_at_once
from serving.predictor import Predictor
from tests.bundles import SIZE, write_auto
from tests.pictures import GREEN, RED

DIM = (100, 90, 80)  # one pass is not sure


def pictures(*colours: tuple[int, int, int]) -> np.ndarray:
    """(n, H, W, 3) uint8, of one colour each."""
    return np.stack([np.full((SIZE, SIZE, 3), colour, dtype=np.uint8) for colour in colours])


def loaded(folder: Path, **options: Any) -> Predictor:
    return Predictor(read(write_auto(folder, **options)), device="cpu", threads=2, concurrent=True)


def test_every_processor_has_a_run_of_a_small_network(tmp_path: Path):
    predictor = Predictor(read(write_auto(tmp_path)), device="cpu", threads=6, concurrent=True)
    assert {predictor.runs_at_once(mode) for mode in ("distilled", "aggregated")} == {6}
    busy, begun = threading.Event(), threading.Semaphore(0)

    def hold(*arguments: Any, **options: Any) -> list[np.ndarray]:
        begun.release()
        assert busy.wait(10)
        return [np.ones((1, 3), np.float32)]

    async def ask(engine: Engine) -> None:
        tasks = [asyncio.create_task(engine.answer(pictures(RED), "distilled")) for _ in range(6)]
        for _ in tasks:
            assert await asyncio.to_thread(begun.acquire, timeout=10)
        busy.set()
        await asyncio.gather(*tasks)

    predictor.run = hold  # type: ignore[method-assign]
    processors = Processors(6)
    asyncio.run(ask(Engine(predictor, processors.batcher)))
    processors.close()


def test_a_large_networks_runs_share_all_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("serving.predictor._SMALL_BYTES", 1)
    predictor = Predictor(read(write_auto(tmp_path)), device="cpu", threads=6, concurrent=True)
    assert predictor.runs_at_once("distilled") == 4


@pytest.mark.parametrize("shared", [True, False])
def test_auto_answers_as_the_predictor_alone_does(
    tmp_path: Path, processors: Processors, shared: bool
):
    predictor = loaded(tmp_path, shared=shared)
    images = pictures(RED, DIM, GREEN, DIM)
    found = asyncio.run(Engine(predictor, processors.batcher).answer(images, "auto"))
    expected = predictor.answer(images, "auto")
    np.testing.assert_allclose(found.values, expected.values, atol=1e-6)
    assert (
        found.passes.tolist() == expected.passes.tolist() == [1, dear := 4 + (not shared), 1, dear]
    )


def test_images_in_doubt_of_several_requests_do_not_mix(tmp_path: Path, processors: Processors):
    predictor = loaded(tmp_path)
    engine = Engine(predictor, processors.batcher)
    asked = [
        pictures(*[(RED, DIM, GREEN)[(k + i) % 3] for i in range(1 + k % 4)]) for k in range(60)
    ]

    async def ask() -> list[Answer]:
        return await asyncio.gather(*(engine.answer(images, "auto") for images in asked))

    for images, found in zip(asked, asyncio.run(ask()), strict=True):
        expected = predictor.answer(images, "auto")
        np.testing.assert_allclose(found.values, expected.values, atol=1e-5)
        assert found.passes.tolist() == expected.passes.tolist()


def test_more_images_than_fit_are_run_in_parts_and_keep_their_order(
    tmp_path: Path, processors: Processors
):
    predictor = loaded(tmp_path)
    images = pictures(
        *[(RED, DIM, GREEN)[k % 3] for k in range(3 * images_at_once(predictor.spec))]
    )
    found = asyncio.run(Engine(predictor, processors.batcher).answer(images, "aggregated"))
    np.testing.assert_allclose(found.values, predictor.predict(images, "aggregated"), atol=1e-6)


@pytest.mark.parametrize("mode", ["distilled", "aggregated", "auto"])
def test_votes_do_not_change_the_answer(tmp_path: Path, processors: Processors, mode: str):
    engine = Engine(loaded(tmp_path), processors.batcher)
    images = pictures(RED, DIM)

    async def ask() -> tuple[Answer, Answer]:
        return await engine.answer(images, mode), await engine.answer(
            images, mode, explain="copies"
        )

    plain, explained = asyncio.run(ask())
    np.testing.assert_allclose(plain.values, explained.values, atol=1e-6)
    assert plain.votes is None
    assert explained.votes is not None
    assert explained.votes.probabilities.shape[:2] == (2, 4)
    assert explained.votes.copies is not None
    np.testing.assert_array_equal(explained.votes.copies[:, 0], images)


@pytest.mark.parametrize("shared", [True, False])
def test_votes_of_auto_are_those_of_all_copies_and_cost_no_more_than_they(
    tmp_path: Path, processors: Processors, shared: bool
):
    engine = Engine(loaded(tmp_path, shared=shared), processors.batcher)
    images = pictures(RED, DIM, GREEN)

    async def ask() -> list[Answer]:
        return [
            await engine.answer(images, mode, explain="votes") for mode in ("auto", "aggregated")
        ]

    auto, aggregated = asyncio.run(ask())
    assert auto.votes is not None
    assert aggregated.votes is not None
    np.testing.assert_allclose(auto.votes.probabilities, aggregated.votes.probabilities, atol=1e-6)
    # where the first pass is a network of its own, it comes on top of the copies
    assert auto.passes.tolist() == [4 if shared else 5] * 3


@pytest.mark.parametrize("mode", ["distilled", "auto"])
def test_auto_explains_where_the_mode_of_all_copies_is_not_loaded(
    tmp_path: Path, processors: Processors, mode: str
):
    bundle = read(write_auto(tmp_path))
    predictor = Predictor(bundle, device="cpu", threads=2, modes=("distilled", "auto"))
    engine = Engine(predictor, processors.batcher)
    assert engine.explains
    images = pictures(RED, DIM)
    found = asyncio.run(engine.answer(images, mode, explain="copies"))
    plain = asyncio.run(engine.answer(images, mode))
    np.testing.assert_allclose(found.values, plain.values, atol=1e-6)
    assert found.votes is not None
    assert found.votes.probabilities.shape[:2] == (2, 4)
