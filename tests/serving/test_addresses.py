import pytest

from serving.addresses import UNKNOWN, Addresses, is_protocol

KNOWN = Addresses(["/", "/predict", "/v2", "/v2/models/{model}", "/v2/models/{model}/versions/{v}"])


@pytest.mark.parametrize(
    ("path", "template", "names"),
    [
        ("/", "/", {}),
        ("", "/", {}),
        ("/predict", "/predict", {}),
        ("/predict/", "/predict", {}),
        ("/v2/models/a", "/v2/models/{model}", {"model": "a"}),
        ("/v2/models/a.b-c é/", "/v2/models/{model}", {"model": "a.b-c é"}),
        ("/v2/models/{model}", "/v2/models/{model}", {"model": "{model}"}),
        ("/v2/models/a\n", "/v2/models/{model}", {"model": "a\n"}),
        ("/v2/models/a/versions/1", "/v2/models/{model}/versions/{v}", {"model": "a", "v": "1"}),
    ],
)
def test_address_is_known_by_its_template(path: str, template: str, names: dict[str, str]):
    assert KNOWN.find(path) == (template, names)


@pytest.mark.parametrize(
    "path",
    [
        "/stranger",
        "/v2/models",
        "/v2/models//",
        "/v2/models/a/b",
        "/v2/models//versions/1",
        "/x/v2",
    ],
)
def test_unknown_addresses_are_one(path: str):
    assert KNOWN.find(path) == (UNKNOWN, {})


def test_no_address_is_a_pattern():
    assert Addresses(["/a.c/{x}"]).find("/abc/1") == (UNKNOWN, {})


def test_the_protocols_addresses():
    assert [is_protocol(path) for path in ("/v2", "/v2/x", "/v22", "/predict", "/unknown")] == [
        True, True, False, False, False,
    ]  # fmt: skip
