"""Many images in a request: parts of a form, a zip, a list in JSON; in their order, each with its own error."""

import asyncio
import base64
import io
import json
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from starlette.testclient import TestClient

from serving import answering, classification, form, images, limits, model, payload, schemas
from serving.engine import Processors
from serving.errors import RequestError
from serving.form import Form
from serving.payload import Item
from serving.settings import Settings
from tests.answers import error
from tests.bundles import SIZE
from tests.pictures import BLUE, COLOURS, GREEN, RED, declared_png, encoded, plain


def predictions(response: Any) -> list[dict[str, Any]]:
    assert response.status_code == 200, response.text
    content = response.json()
    schemas.Predictions.model_validate(content, strict=True)
    return list(content["predictions"])


def words(found: list[dict[str, Any]]) -> list[str]:
    """Labels, and the codes of errors."""
    return [entry["label"] if "label" in entry else entry["error"]["code"] for entry in found]


def zipped(entries: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def base64_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


def test_parts_of_a_form_are_answered_in_their_order(client: TestClient):
    files = [("image", (f"{name}.png", plain(colour))) for name, colour in COLOURS.items()]
    found = predictions(client.post("/predict", files=[*files, files[0]]))
    assert words(found) == [*COLOURS, "red"]
    assert [entry["name"] for entry in found] == ["red.png", "green.png", "blue.png", "red.png"]


def test_bad_image_among_good_ones_has_its_own_error(client: TestClient):
    images = (plain(RED), b"text", plain(GREEN), declared_png(50_000, 50_000), b"", plain(BLUE))
    found = predictions(client.post("/predict", files=[("image", data) for data in images]))
    assert words(found) == [
        "red", "not_an_image", "green", "too_many_pixels", "not_an_image", "blue",
    ]  # fmt: skip
    assert set(found[1]) == {"name", "error"}


def test_only_bad_images_are_answered_one_by_one(client: TestClient):
    files = [("image", b"text"), ("image", b"more")]
    assert words(predictions(client.post("/predict", files=files))) == ["not_an_image"] * 2


def test_a_part_called_images_is_answered_by_a_list(client: TestClient):
    files = [("images", plain(GREEN))]
    assert words(predictions(client.post("/predict", files=files))) == ["green"]


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_zip_as_the_body_and_in_a_form(client: TestClient, compression: int):
    entries = {
        "b/blue.png": plain(BLUE),
        "notes.txt": b"not asked",
        "__MACOSX/._red.png": b"left by a Mac",
        "a/red.jpg": plain(RED, "JPEG"),
        "broken.png": b"text",
    }
    data = zipped(entries, compression)
    for request in ({"content": data}, {"files": {"image": ("x.zip", data)}}):
        found = predictions(client.post("/predict", **request))
        assert words(found) == ["blue", "red", "not_an_image"]
        assert [entry["name"] for entry in found] == ["b/blue.png", "a/red.jpg", "broken.png"]


def test_zip_and_image_in_one_form_keep_their_places(client: TestClient):
    files = [
        ("image", plain(RED)),
        ("image", zipped({"g.png": plain(GREEN)})),
        ("image", plain(BLUE)),
    ]
    assert words(predictions(client.post("/predict", files=files))) == ["red", "green", "blue"]


def test_json_list_of_base64(client: TestClient):
    texts = [base64_of(plain(RED)), "data:image/png;base64," + base64_of(plain(BLUE)), "%%%"]
    body = {"images": texts, "mode": "aggregated", "top_k": 2}
    response = client.post("/predict", json=body)
    found = predictions(response)
    assert words(found) == ["red", "blue", "not_base64"]
    assert response.json()["mode"] == "aggregated"
    assert [len(entry["top"]) for entry in found[:2]] == [2, 2]


def test_json_with_one_image_is_answered_as_one(client: TestClient):
    answer = client.post("/predict", json={"image": base64_of(plain(GREEN))}).json()
    assert (answer["label"], "predictions" in answer) == ("green", False)
    for text in ("%%%", "é"):
        found = error(client.post("/predict", json={"image": text}))
        assert (found["status"], found["code"]) == (422, "not_base64")


def test_json_list_alone(client: TestClient):
    texts = [base64_of(plain(RED)), base64_of(plain(BLUE))]
    found = predictions(client.post("/predict?mode=single", json=texts))
    assert words(found) == ["red", "blue"]
    assert words(predictions(client.post("/predict", json=texts[:1]))) == ["red"]


@pytest.mark.parametrize("head", ["", "data:image/png;base64,"])
def test_base64_may_have_line_breaks_and_blanks(client: TestClient, head: str):
    text = head + base64.encodebytes(encoded(Image.new("RGB", (40, 40), GREEN), "BMP")).decode()
    assert text.count("\n") > 60
    for broken in (text, text.replace("\n", "\r\n"), text.replace("\n", " \t")):
        found = predictions(client.post("/predict", json=[broken]))
        assert words(found) == ["green"]


@pytest.mark.parametrize(
    "body", [b"hello", b"12", b'"eA=="', b"null", b"[", b"\xff\xfe", b" " * 99, b"[1]", b"[[]]"]
)
@pytest.mark.parametrize("declared", ["application/json", "Application/JSON; charset=utf-8"])
def test_what_is_declared_as_json_and_is_none(client: TestClient, body: bytes, declared: str):
    found = error(client.post("/predict", content=body, headers={"content-type": declared}))
    assert (found["status"], found["code"]) == (400, "malformed_body")


def test_zip_that_is_declared_as_json_is_a_zip(client: TestClient):
    headers = {"content-type": "application/json"}
    data = zipped({"red.png": plain(RED)})
    assert words(predictions(client.post("/predict", content=data, headers=headers))) == ["red"]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b'{"images": [', "malformed_body"),
        (b"{}", "malformed_body"),
        (b'{"image": "eA==", "images": []}', "malformed_body"),
        (b'{"images": "eA=="}', "malformed_body"),
        (b'{"images": [1]}', "malformed_body"),
        (b'{"images": ["eA=="], "mode": ["single"]}', "malformed_body"),
        (b'{"images": []}', "no_image"),
        (b"[]", "no_image"),
        (b'{"image": ""}', "no_image"),
        (b'{"images": ["eA=="], "modus": "x"}', "unknown_field"),
        (b'{"images": ["eA=="], "mode": "' + b"x" * 300 + b'"}', "field_too_long"),
        (b'{"a":' * 100_000, "malformed_body"),
        (zipped({}), "no_image"),
        (zipped({"notes.txt": b"x"}), "no_image"),
        (zipped({"red.png": plain(RED)})[:-30], "malformed_body"),
    ],
)
def test_malformed_container_is_one_sentence(client: TestClient, body: bytes, code: str):
    found = error(client.post("/predict", content=body))
    assert (found["status"], found["code"]) == (400, code)


def test_damaged_entry_spoils_nothing(client: TestClient):
    data = bytearray(zipped({"a.png": plain(RED), "b.png": plain(GREEN)}))
    data[60] ^= 255  # within the first entry
    assert words(predictions(client.post("/predict", content=bytes(data)))) == [
        "damaged_image",
        "green",
    ]


def test_encrypted_entry_is_named(client: TestClient):
    data = bytearray(zipped({"a.png": plain(RED)}))
    data[data.index(b"PK\x01\x02") + 8] |= 1
    data[6] |= 1
    (found,) = predictions(client.post("/predict", content=bytes(data)))
    assert "encrypted" in found["error"]["message"]


def test_zip_that_unpacks_to_too_much_is_refused_before_it_is_unpacked(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(payload, "MAX_UNZIPPED_BYTES", 1000)
    data = zipped({"a.png": bytes(2000)}, zipfile.ZIP_DEFLATED)
    found = error(client.post("/predict", content=data))
    assert (found["status"], found["code"]) == (413, "zip_too_large")


def test_entry_that_is_larger_than_it_says_is_damaged(client: TestClient):
    data = zipped({"a.png": bytes(100_000)}, zipfile.ZIP_DEFLATED)
    size = (100_000).to_bytes(4, "little")
    found = predictions(client.post("/predict", content=data.replace(size, b"\x10\0\0\0")))
    assert words(found) in (["damaged_image"], ["not_an_image"])


def test_number_of_images_is_limited_in_every_container(client: TestClient):
    most = limits.MAX_IMAGES
    small = plain(RED, size=1)
    assert len(predictions(client.post("/predict", files=[("image", small)] * most))) == most
    many = {f"{k}.png": small for k in range(most + 1)}
    for request, code in (
        ({"files": [("image", small)] * (most + 1)}, "too_many_images"),
        ({"json": {"images": [base64_of(small)] * (most + 1)}}, "too_many_images"),
        ({"content": zipped(many)}, "zip_too_large"),
    ):
        found = error(client.post("/predict", **request))
        assert (found["status"], found["code"]) == (413, code)


def test_fewer_images_are_allowed_where_the_model_takes_large_ones(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(limits, "MAX_WAITING_BYTES", 3 * SIZE * SIZE * 3)
    small = ("image", plain(RED, size=1))
    assert len(predictions(client.post("/predict", files=[small] * 3))) == 3
    found = error(client.post("/predict", files=[small] * 4))
    assert (found["status"], found["code"]) == (413, "too_many_images")
    size = f"{SIZE} x {SIZE} pixels"
    assert found["message"] == f"4 images; send at most 3 a request (the model takes {size})"


def test_one_image_is_always_allowed(client: TestClient, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(limits, "MAX_WAITING_BYTES", 1)
    assert client.post("/predict", content=plain(RED)).json()["label"] == "red"


@pytest.mark.parametrize("mode", ["distilled", "single", "aggregated"])
def test_votes_are_explained_in_every_mode(client: TestClient, mode: str):
    answer = client.post(f"/predict?mode={mode}&explain=true", content=plain(GREEN)).json()
    schemas.Prediction.model_validate(answer, strict=True)
    turns = ["rotation0", "rotation90", "rotation180", "rotation270"]
    assert [vote["transformation"] for vote in answer["votes"]] == turns
    assert {vote["label"] for vote in answer["votes"]} == {"green"}
    assert all("png" not in vote for vote in answer["votes"])
    assert (answer["mode"], answer["label"]) == (mode, "green")


def test_copies_are_shown_on_request(client: TestClient):
    answer = client.post("/predict?explain=copies&mode=single", content=plain(BLUE)).json()
    for vote in answer["votes"]:
        shown = base64.b64decode(vote["png"])
        assert client.post("/predict", content=shown).json()["label"] == "blue"


@pytest.mark.parametrize(("mode", "passes"), [("single", 5), ("distilled", 5), ("aggregated", 4)])
def test_passes_of_the_votes_are_counted(client: TestClient, mode: str, passes: int):
    answer = client.post(f"/predict?explain=true&mode={mode}", content=plain(BLUE)).json()
    assert answer["forward_passes"] == passes


def test_copies_of_very_many_images_are_not_shown(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(limits, "MAX_COPIES_BYTES", 2 * 4 * SIZE * SIZE * 3)
    image = ("image", plain(RED))
    assert len(predictions(client.post("/predict?explain=copies", files=[image] * 2))) == 2
    found = error(client.post("/predict?explain=copies", files=[image] * 3))
    assert (found["status"], found["code"]) == (413, "too_many_images")
    assert "3 images with 4 copies each; ask for copies of at most 2" in found["message"]
    assert len(predictions(client.post("/predict?explain=true", files=[image] * 3))) == 3


def test_event_loop_writes_no_pictures_and_no_long_answers(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
):
    threads: dict[str, set[int]] = {"png": set(), "json": set(), "loop": set()}

    def noting(name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*arguments: Any) -> Any:
            threads[name].add(threading.get_ident())
            return work(*arguments)

        return noted

    monkeypatch.setattr(images, "encode_png", noting("png", images.encode_png))
    monkeypatch.setattr(answering, "_to_json", noting("json", answering._to_json))
    monkeypatch.setattr(form, "parse", noting("loop", form.parse))
    assert client.post("/predict?explain=copies", files=[("image", plain(RED))] * 20).is_success
    assert len(threads["loop"]) == 1
    assert threads["png"]
    assert threads["json"]
    assert not (threads["png"] | threads["json"]) & threads["loop"]


def test_votes_need_the_mode_that_looks_at_all_copies(colours: Path, processors: Processors):
    loaded = model.load(Settings(colours, modes=("distilled",)), processors)
    item = Item(plain(RED), None)
    asked = Form((item,), many=False, model=None, mode=None, top_k=None, explain="votes")
    with pytest.raises(RequestError, match="the mode 'aggregated' is not loaded"):
        asyncio.run(classification.classify(loaded, asked))


def test_many_images_are_explained_each(client: TestClient):
    files = [("image", plain(RED)), ("image", b"text"), ("image", plain(BLUE))]
    found = predictions(client.post("/predict?explain=true", files=files))
    assert [{v["label"] for v in entry.get("votes", ())} for entry in found] == [
        {"red"}, set(), {"blue"},
    ]  # fmt: skip


def test_unknown_explanation_lists_the_known_ones(client: TestClient):
    found = error(client.post("/predict?explain=why", content=plain(RED)))
    assert (found["status"], found["code"]) == (422, "invalid_explain")
    assert "true, false, copies" in found["message"]


def test_many_and_one_have_the_same_answer(client: TestClient):
    one = client.post("/predict", content=plain(RED)).json()
    (other,) = predictions(client.post("/predict", files=[("images", plain(RED))]))
    shared = ("label", "index", "confidence", "top", "forward_passes")
    assert {k: one[k] for k in shared} == {k: other[k] for k in shared}
    assert json.dumps(one["top"]) == json.dumps(other["top"])
