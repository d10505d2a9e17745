"""POST /embed, below HTTP: what a request says, and what an encoder answers to it."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from serving import answering, decoding, form, limits, model, openapi, repository, schemas
from serving.engine import Engine, Processors
from serving.images import ImageSpec
from serving.model import Model
from serving.models import Models
from serving.predictor import unit
from serving.settings import Settings
from serving.start import ServeConfig, announcement
from tests.answers import error
from tests.bundles import write_embedder
from tests.pictures import BLUE, GREEN, RED, declared_png, encoded, plain


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory, processors: Processors) -> Model:
    """The bundle that embeds, loaded."""
    folder = write_embedder(tmp_path_factory.mktemp("embedder"))
    return model.load(Settings(folder, device="cpu"), processors)


def received(
    *images: bytes, query: tuple[tuple[str, str], ...] = (), **fields: str
) -> form.Received:
    """A multipart request as it came over the wire."""
    parts = [("image", data) for data in images] + [(k, v.encode()) for k, v in fields.items()]
    body = b"".join(
        b'--b\r\nContent-Disposition: form-data; name="' + name.encode() + b'"\r\n\r\n' + data + b"\r\n"
        for name, data in parts
    )  # fmt: skip
    return form.Received(body + b"--b--\r\n", "multipart/form-data; boundary=b", query, "id")


def asked(loaded: Model, request: form.Received | form.Refused, work: answering.Work) -> Any:
    """Status and content of an answer."""
    models = Models()
    models.put(loaded)
    response = asyncio.run(answering.answer(models, request, work))
    return response.status_code, json.loads(bytes(response.body))


def refused(encoder: Model, request: form.Received) -> tuple[int, str, str]:
    status, content = asked(encoder, request, answering.embed)
    found = schemas.ErrorAnswer.model_validate(content, strict=True).error
    return status, found.code, found.message


def test_answer_has_the_vectors_in_the_order_of_the_images(encoder: Model):
    colours = [RED, BLUE, GREEN, RED]
    status, content = asked(encoder, received(*map(plain, colours)), answering.embed)
    answer = schemas.Embeddings.model_validate(content, strict=True)
    assert (status, list(content)) == (200, list(schemas.Embeddings.model_fields))
    assert (answer.model, answer.mode, answer.dimensions) == ("means", "embed", 3)
    assert not answer.normalized
    np.testing.assert_allclose(answer.embeddings, np.array(colours) / 255, atol=1e-6)


def test_raw_body_is_one_image(encoder: Model):
    request = form.Received(plain(RED, "JPEG"), "application/json", (), "id")
    status, content = asked(encoder, request, answering.embed)
    assert (status, len(content["embeddings"])) == (200, 1)


@pytest.mark.parametrize(("value", "expected"), [("true", 1), ("1", 1), ('"true"', 1), ("TRUE", 1)])
def test_normalized_vectors_have_length_1(encoder: Model, value: str, expected: int):
    for request in (
        received(plain(RED), plain(BLUE), normalize=value),
        received(plain(RED), plain(BLUE), query=(("normalize", value),)),
    ):
        _, content = asked(encoder, request, answering.embed)
        assert content["normalized"]
        np.testing.assert_allclose(np.linalg.norm(content["embeddings"], axis=1), expected)
        np.testing.assert_allclose(
            content["embeddings"][0], np.array(RED) / np.linalg.norm(RED), atol=1e-6
        )


@pytest.mark.parametrize("value", ["false", "0", "null", ""])
def test_normalize_can_be_declined(encoder: Model, value: str):
    _, content = asked(encoder, received(plain(RED), normalize=value), answering.embed)
    assert not content["normalized"]


def test_unit_keeps_directions_and_leaves_zeros():
    vectors = np.array([[3, 4], [0, 0], [-1e-30, 0], [3e30, 4e30]], dtype=np.float32)
    expected = [[0.6, 0.8], [0, 0], [-1, 0], [0.6, 0.8]]
    assert unit(vectors).dtype == np.float32
    np.testing.assert_allclose(unit(vectors), expected, rtol=1e-6)


def test_images_are_embedded_in_bounded_batches(
    encoder: Model, monkeypatch: pytest.MonkeyPatch, processors: Processors
):
    seen: list[int] = []
    run = encoder.predictor.run

    def counted(graph: str, feeds: Any, outputs: Any, alone: bool) -> Any:
        seen.append(len(feeds["images"]))
        return run(graph, feeds, outputs, alone=alone)

    monkeypatch.setattr(encoder.predictor, "run", counted)
    monkeypatch.setattr(limits, "_BATCH_IMAGES", 4)
    fresh = replace(encoder, engine=Engine(encoder.predictor, processors.batcher))
    colours = [(value, 2 * value, 255 - value) for value in range(10)]
    _, answer = asked(fresh, received(*map(plain, colours)), answering.embed)
    assert sum(seen) == 10
    assert max(seen) <= 4
    np.testing.assert_allclose(answer["embeddings"], np.array(colours) / 255, atol=1e-6)


def test_fewer_images_at_once_the_larger_they_are():
    sizes = {32: 64, 224: 41, 1024: 2, 4096: 1}
    for side, expected in sizes.items():
        assert limits.images_at_once(ImageSpec(side, side)) == expected


BAD = {
    "not_an_image": (b"text", 415),
    "too_many_pixels": (declared_png(50_000, 50_000), 413),
    "damaged_image": (declared_png(7_000, 7_000), 422),
    "unsupported_pixels": (encoded(Image.new("F", (8, 8)), "TIFF"), 422),
}


@pytest.mark.parametrize("code", BAD)
def test_bad_image_among_good_ones_spoils_nothing(encoder: Model, code: str):
    request = received(plain(RED), BAD[code][0], b"", plain(GREEN))
    status, content = asked(encoder, request, answering.embed)
    answer = schemas.Embeddings.model_validate(content, strict=True)
    assert status == 200
    assert [vector is None for vector in answer.embeddings] == [False, True, True, False]
    np.testing.assert_allclose(answer.embeddings[3], np.array(GREEN) / 255, atol=1e-6)
    assert [(e.place, e.code) for e in answer.errors] == [(1, code), (2, "not_an_image")]


@pytest.mark.parametrize("code", BAD)
def test_bad_image_alone_is_an_error(encoder: Model, code: str):
    data, status = BAD[code]
    assert refused(encoder, received(data))[:2] == (status, code)


def test_only_bad_images_are_named_one_by_one(encoder: Model):
    status, content = asked(encoder, received(b"text", b"more"), answering.embed)
    assert (status, content["embeddings"]) == (200, [None, None])
    assert [found["place"] for found in content["errors"]] == [0, 1]


def test_pixels_of_all_images_together_are_limited(encoder: Model, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(decoding, "MAX_REQUEST_PIXELS", 3 * 32 * 32)
    _, content = asked(encoder, received(*[plain(RED)] * 4), answering.embed)
    assert [vector is None for vector in content["embeddings"]] == [False, False, False, True]
    (found,) = content["errors"]
    assert found["code"] == "too_many_pixels"
    assert found["message"].startswith("together more than")


def test_images_are_limited_in_number(encoder: Model):
    most = limits.MAX_IMAGES
    status, content = asked(encoder, received(*[plain(RED)] * most), answering.embed)
    assert (status, len(content["embeddings"])) == (200, most)
    for count in (most + 1, 3 * most):
        found = refused(encoder, received(*[plain(RED)] * count))
        message = f"{count} images; send at most 256 a request"
        assert found == (413, "too_many_images", message)
    assert refused(encoder, received(*[b"x"] * 2001))[1] == "malformed_multipart"


def test_fewer_images_are_allowed_where_the_model_takes_large_ones(
    encoder: Model, monkeypatch: pytest.MonkeyPatch
):
    spec = encoder.predictor.spec
    monkeypatch.setattr(limits, "MAX_WAITING_BYTES", 2 * spec.height * spec.width * 3)
    assert asked(encoder, received(*[plain(RED)] * 2), answering.embed)[0] == 200
    assert refused(encoder, received(*[plain(RED)] * 3))[:2] == (413, "too_many_images")


@pytest.mark.parametrize(
    ("fields", "status", "code"),
    [
        ({"mode": "best"}, 422, "unknown_mode"),
        ({"normalize": "maybe"}, 422, "invalid_normalize"),
        ({"top_k": "3"}, 400, "unknown_field"),
        ({"normalize": "true", "mode": "x" * 300}, 400, "field_too_long"),
    ],
)
def test_bad_options_are_one_sentence(
    encoder: Model, fields: dict[str, str], status: int, code: str
):
    assert refused(encoder, received(plain(RED), **fields))[:2] == (status, code)


def test_request_without_an_image_is_refused(encoder: Model):
    assert refused(encoder, received(mode="embed"))[:2] == (400, "no_image")
    assert refused(encoder, received(b"", b""))[:2] == (400, "no_image")


def test_query_and_form_may_not_disagree(encoder: Model):
    request = received(plain(RED), query=(("normalize", "false"),), normalize="true")
    assert refused(encoder, request)[:2] == (400, "contradictory_fields")


def test_classes_asked_of_an_encoder_are_refused_with_what_it_answers(encoder: Model):
    for request in (received(plain(RED)), received(plain(RED), top_k="99")):
        status, content = asked(encoder, request, answering.classify)
        assert (status, content["error"]["code"]) == (404, "wrong_task")
        assert (
            content["error"]["message"]
            == "means is an encoder and knows no classes; ask POST /embed"
        )


def test_embeddings_asked_of_a_classifier_are_refused_with_what_it_answers(client: TestClient):
    found = error(client.post("/embed", content=plain(RED)))
    assert (found["status"], found["code"]) == (404, "wrong_task")
    assert found["message"] == "colours is a classifier and gives no embeddings; ask POST /predict"
    assert client.get("/embed").status_code == 405


def test_vector_that_is_not_finite_is_a_fault_of_the_server(
    encoder: Model, monkeypatch: pytest.MonkeyPatch
):
    broken = [np.full((1, 3), np.nan, np.float32)]
    monkeypatch.setattr(encoder.predictor, "run", lambda graph, feeds, outputs, alone: broken)
    with pytest.raises(ValueError, match="Out of range float"):
        asked(encoder, received(plain(RED)), answering.embed)


def test_description_has_dimensions_in_place_of_classes(
    encoder: Model, colours: Path, processors: Processors
):
    about = schemas.ModelInfo.model_validate(model.describe(encoder), strict=True)
    assert (about.task, about.classes, about.dimensions) == ("embed", [], 3)
    assert about.default_mode == "embed"
    assert (
        model.describe(model.load(Settings(colours, device="cpu"), processors))["dimensions"]
        is None
    )


def test_document_describes_embed_in_place_of_predict(encoder: Model):
    document = openapi.document(model.describe(encoder))
    own = {path for path in document["paths"] if not path.startswith("/v2")}
    assert own == {"/embed", "/models", "/livez", "/readyz", "/metrics"}
    operation = document["paths"]["/embed"]["post"]
    assert [entry["name"] for entry in operation["parameters"]] == ["mode", "normalize"]
    body = operation["requestBody"]["content"]["multipart/form-data"]["schema"]["properties"]
    assert body["image"]["maxItems"] == limits.MAX_IMAGES
    assert "Embeddings" in document["components"]["schemas"]
    assert "class" not in json.dumps(document["info"]) + json.dumps(operation)


def test_announcement_says_what_is_answered_and_can_be_pasted(tmp_path: Path):
    settings = Settings(write_embedder(tmp_path))
    seen = repository.check(repository.open_repository(settings), settings)
    said = announcement(ServeConfig(tmp_path, port=80), seen)
    assert "means: embeddings of 3 numbers, on cpu" in said
    assert (
        f"curl --data-binary @{tmp_path / 'samples' / 'red.png'} http://127.0.0.1:80/embed" in said
    )
    assert "classes" not in said
