"""What would hold the event loop, or fill the memory, while a request is read."""

import asyncio
import io
import json
import threading
import zipfile

import pytest
from starlette.testclient import TestClient

from serving import images, limits, payload
from tests.answers import error
from tests.pictures import GREEN, RED, endless, plain
from tests.serving.test_many import base64_of, predictions, words, zipped


@pytest.mark.parametrize(
    ("method", "name"), [(zipfile.ZIP_BZIP2, "bzip2"), (zipfile.ZIP_LZMA, "LZMA")]
)
def test_entry_of_a_slow_method_says_so_and_spoils_nothing(
    client: TestClient, method: int, name: str
):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("red.png", plain(RED), method)
        archive.writestr("green.png", plain(GREEN), zipfile.ZIP_DEFLATED)
    found = predictions(client.post("/predict", content=buffer.getvalue()))
    assert words(found) == ["damaged_image", "green"]
    assert f"compressed by {name}; make the zip with deflate" in found[0]["error"]["message"]


def test_entry_of_an_unknown_method_is_one_too(client: TestClient):
    data = bytearray(zipped({"red.png": plain(RED)}))
    data[data.index(b"PK\x01\x02") + 10] = 77
    (found,) = predictions(client.post("/predict", content=bytes(data)))
    assert "compressed by method 77" in found["error"]["message"]


def test_zip_of_a_later_version_is_a_clients_fault(client: TestClient):
    data = bytearray(zipped({"red.png": plain(RED)}))
    data[data.index(b"PK\x01\x02") + 6] = 255
    found = error(client.post("/predict", content=bytes(data)))
    assert (found["status"], found["code"]) == (400, "malformed_body")


def test_long_list_of_files_is_refused_before_it_is_read(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
):
    data = zipped({f"{place:05}.txt": b"" for place in range(10_000)})
    monkeypatch.setattr(zipfile, "ZipInfo", None)  # what each entry becomes
    found = error(client.post("/predict", content=data))
    assert (found["status"], found["code"]) == (413, "zip_too_large")
    assert "537 KiB; it may have 512 KiB" in found["message"]


def test_zip_with_many_other_files_is_read(client: TestClient):
    files = {f"{place:05}.txt": b"" for place in range(5000)}
    found = predictions(
        client.post("/predict", content=zipped({**files, "big.png": plain(RED) + bytes(10**6)}))
    )
    assert words(found) == ["red"]


def test_json_of_many_values_is_refused_before_it_is_read(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
):
    body = b'{"image": "eA==", "x": [' + b"1," * 10_000 + b"1]}"
    monkeypatch.setattr(payload, "json", None)
    found = error(client.post("/predict", content=body))
    assert (found["status"], found["code"]) == (400, "malformed_body")
    assert "too many values" in found["message"]


def test_as_many_images_as_are_allowed_are_not_too_many_values(client: TestClient):
    texts = ["data:image/png;base64," + base64_of(plain(RED, size=1))] * limits.MAX_IMAGES
    assert len(predictions(client.post("/predict", json={"images": texts}))) == limits.MAX_IMAGES
    found = error(client.post("/predict", json=texts * 8))
    assert (found["status"], found["code"]) == (413, "too_many_images")


def read_by(
    monkeypatch: pytest.MonkeyPatch, function: str, body: bytes, content_type: str = ""
) -> bool:
    """Whether a function reads that body in the thread of the event loop."""
    threads, wrapped = [], getattr(payload, function)

    def watched(given: object) -> object:
        threads.append(threading.current_thread())
        return wrapped(given)

    monkeypatch.setattr(payload, function, watched)
    asyncio.run(payload.read(body, content_type))
    (thread,) = threads
    return thread is threading.current_thread()


def test_zips_are_unpacked_in_a_thread(monkeypatch: pytest.MonkeyPatch):
    data = zipped({"zeros.png": bytes(2 * 1024**2)}, zipfile.ZIP_DEFLATED)
    assert len(data) < 50_000  # a small one may take long as well
    head = b'--b\r\nContent-Disposition: form-data; name="image"\r\n\r\n'
    in_a_form = head + data + b"\r\n--b--\r\n"
    in_json = json.dumps([base64_of(data)]).encode()
    for body, content_type in (
        (data, ""),
        (in_a_form, "multipart/form-data; boundary=b"),
        (in_json, "application/json"),
    ):
        with monkeypatch.context() as patch:
            assert not read_by(patch, "_unzipped", body, content_type)


def test_large_json_is_read_in_a_thread(monkeypatch: pytest.MonkeyPatch):
    for size, here in ((1000, True), (300_000, False)):
        body = json.dumps({"image": base64_of(bytes(size))}).encode()
        with monkeypatch.context() as patch:
            assert read_by(patch, "_json", body) == here


def test_zip_without_images_says_what_it_looked_for(client: TestClient):
    found = error(client.post("/predict", content=zipped({"IMG_1.HEIC": b"x"})))
    assert (found["status"], found["code"]) == (400, "no_image")
    assert "no file in it ends in .avif, .bmp" in found["message"]


def test_zip_without_images_beside_an_image_has_an_error_in_its_place(client: TestClient):
    parts = [("image", ("a.zip", zipped({"notes.txt": b"x"}))), ("image", ("b.png", plain(RED)))]
    found = predictions(client.post("/predict", files=parts))
    assert words(found) == ["not_an_image", "red"]


@pytest.mark.parametrize("declared", ["image/png", "application/json"])
def test_header_without_end_is_answered(client: TestClient, declared: str):
    data = endless("JPEG padding", 400_000)
    found = error(client.post("/predict", content=data, headers={"content-type": declared}))
    assert (found["status"], found["code"]) == (422, "damaged_image")


def test_large_body_is_not_opened_on_the_event_loop(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
):
    threads = []
    header = images.header

    def watched(data: bytes) -> object:
        threads.append(threading.current_thread().name)
        return header(data)

    monkeypatch.setattr(images, "header", watched)
    found = client.post("/predict", content=plain(RED) + bytes(300_000))
    assert found.json()["label"] == "red"
    assert [name.startswith("decode") for name in threads] == [True]
