"""How a request may say which image, and how to answer."""

from collections.abc import Iterator

import pytest
from starlette.testclient import TestClient

from serving import limits
from tests.answers import error
from tests.pictures import GREEN, RED, plain


@pytest.mark.parametrize(
    "content_type",
    [
        "application/x-www-form-urlencoded",
        "application/octet-stream",
        "application/json",
        "image/png",
        "text/plain; charset=utf-8",
        "",
    ],
)
def test_declared_type_of_a_raw_body_does_not_matter(client: TestClient, content_type: str):
    response = client.post(
        "/predict", content=plain(GREEN, "JPEG"), headers={"content-type": content_type}
    )
    assert response.json()["label"] == "green"


@pytest.mark.parametrize("declared", ["image/png", "text/html", "application/vnd.bentoml+pickle"])
def test_declared_type_of_a_part_does_not_matter(client: TestClient, declared: str):
    files = {"image": ("x.txt", plain(GREEN, "JPEG"), declared)}
    assert client.post("/predict", files=files).json()["label"] == "green"


def test_pickles_are_refused_by_their_declared_type(client: TestClient):
    headers = {"content-type": "application/vnd.bentoml+pickle"}
    found = error(client.post("/predict", content=b"\x80\x04N.", headers=headers))
    assert found["status"] == 415


@pytest.mark.parametrize("mode", ["single", '"single"', " single "])
def test_mode_and_top_k_come_from_the_form(client: TestClient, mode: str):
    answer = client.post(
        "/predict", files={"image": plain(RED)}, data={"mode": mode, "top_k": "2"}
    ).json()
    assert (answer["mode"], len(answer["top"])) == ("single", 2)


def test_mode_and_top_k_come_from_the_query(client: TestClient):
    answer = client.post("/predict?mode=aggregated&top_k=1", content=plain(RED)).json()
    assert (answer["mode"], answer["forward_passes"], len(answer["top"])) == ("aggregated", 4, 1)


def test_query_and_form_may_say_the_same(client: TestClient):
    data = {"mode": '"single"', "top_k": "null"}
    response = client.post("/predict?mode=single", files={"image": plain(RED)}, data=data)
    assert response.json()["mode"] == "single"


def test_query_and_form_may_not_disagree(client: TestClient):
    data = {"mode": "aggregated"}
    found = error(client.post("/predict?mode=single", files={"image": plain(RED)}, data=data))
    assert found["status"] == 400
    assert found["code"] == "contradictory_fields"
    assert "'single'" in found["message"]
    assert "'aggregated'" in found["message"]


@pytest.mark.parametrize("top_k", ["0", "4", "-1", "1.5", "many", "1" * 40, "²"])
def test_top_k_out_of_range_says_what_is_in_range(client: TestClient, top_k: str):
    found = error(client.post("/predict", params={"top_k": top_k}, content=plain(RED)))
    assert (found["status"], found["code"]) == (422, "invalid_top_k")


def test_unknown_field_lists_the_known_ones(client: TestClient):
    for options in ({"params": {"modus": "x"}}, {"data": {"modus": "x"}}):
        found = error(client.post("/predict", files={"image": plain(RED)}, **options))
        assert (found["status"], found["code"]) == (400, "unknown_field")
        assert "['image', 'model', 'mode', 'top_k', 'explain']" in found["message"]


def test_bentomls_options_beside_the_image_may_be_null(client: TestClient):
    data = {"mode": "null", "top_k": "null"}
    answer = client.post("/predict", files={"image": plain(RED)}, data=data).json()
    assert (answer["mode"], len(answer["top"])) == ("distilled", 3)


def test_addresses_are_never_fetched(client: TestClient, monkeypatch: pytest.MonkeyPatch):
    async def fetch(*arguments: object, **options: object) -> None:
        raise AssertionError("the server fetched an address")

    monkeypatch.setattr("httpx.AsyncClient.get", fetch)
    address = "http://127.0.0.1:9/secret"
    found = error(client.post("/predict", files={"image": (None, address)}))
    assert found["code"] == "not_an_image"
    found = error(client.post("/predict", data={"image": address}))
    assert found["code"] == "not_an_image"
    found = error(client.post("/predict", content=address))
    assert found["code"] == "not_an_image"


BOUNDARY = "multipart/form-data; boundary=b"


@pytest.mark.parametrize(
    ("body", "content_type", "code"),
    [
        (b"", "multipart/form-data", "malformed_multipart"),
        (b"--b--\r\n", "multipart/form-data; boundary=" + "b" * 300, "malformed_multipart"),
        (b"", BOUNDARY, "malformed_multipart"),
        (b"--b--\r\n", BOUNDARY, "no_image"),
        (b"nonsense", BOUNDARY, "malformed_multipart"),
        (
            b"--b\r\nContent-Disposition: form-data\r\n\r\nx\r\n--b--\r\n",
            BOUNDARY,
            "malformed_multipart",
        ),
        (
            b'--b\r\nContent-Disposition: form-data; name="image"\r\n\r\nxx',
            BOUNDARY,
            "malformed_multipart",
        ),
        (
            b'--b\r\nContent-Disposition: form-data; name="image"\r\n\r\n\r\n--b--\r\n',
            BOUNDARY,
            "no_image",
        ),
        (b"--b\r\nContent-Dis: " + b"x" * 100_000 + b"\r\n\r\n", BOUNDARY, "malformed_multipart"),
    ],
)
def test_malformed_multipart_is_a_clients_fault(
    client: TestClient, body: bytes, content_type: str, code: str
):
    response = client.post("/predict", content=body, headers={"content-type": content_type})
    found = error(response)
    assert (found["status"], found["code"]) == (400, code)


def test_too_many_parts_are_refused(client: TestClient):
    files = [("mode", (None, "single"))] * 2000 + [("image", ("a", plain(RED)))]
    assert error(client.post("/predict", files=files))["code"] == "malformed_multipart"


def test_model_may_be_named(client: TestClient):
    assert client.post("/predict?model=colours", content=plain(RED)).json()["label"] == "red"
    found = error(client.post("/predict?model=shapes", content=plain(RED)))
    assert (found["status"], found["code"]) == (404, "unknown_model")
    assert "['colours']" in found["message"]


def test_long_field_is_refused(client: TestClient):
    response = client.post("/predict", files={"image": plain(RED)}, data={"mode": "x" * 300})
    assert error(response)["code"] == "field_too_long"


@pytest.mark.parametrize("name", ["model", "mode", "top_k", "explain", "x" * 9000])
def test_long_texts_are_not_repeated(client: TestClient, name: str):
    found = error(client.post("/predict", params={name: "x" * 9000}, content=plain(RED)))
    assert len(found["message"]) < 300
    found = error(client.post("/predict", json={"image": "eA==", name: "x" * 9000}))
    assert len(found["message"]) < 300


def test_body_over_the_limit_is_refused_by_its_declared_length(client: TestClient):
    body = bytes(limits.MAX_REQUEST_BYTES + 1)
    found = error(client.post("/predict", content=body))
    assert (found["status"], found["code"]) == (413, "too_large")
    assert "20 MiB" in found["message"]


def test_body_over_the_limit_is_refused_while_it_is_read(client: TestClient):
    def chunks() -> Iterator[bytes]:
        for _ in range(21):
            yield bytes(1024**2)

    found = error(client.post("/predict", content=chunks()))
    assert (found["status"], found["code"]) == (413, "too_large")


def test_body_at_the_limit_is_read(client: TestClient):
    picture = plain(GREEN)
    body = picture + bytes(limits.MAX_REQUEST_BYTES - len(picture))
    assert client.post("/predict", content=body).json()["label"] == "green"
