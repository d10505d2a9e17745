"""Requests with a real photograph in them, in the ways that clients send images."""

import base64
import io
import json
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_image

from serving.manifest import Manifest

BATCH, PICTURES = 32, 64
_BOUNDARY = "photograph"


@dataclass(frozen=True)
class Request:
    """A body, its headers, and the address that takes it. path may name {name}, the model's.

    others: further bodies, of other pictures.
    """

    body: bytes
    headers: dict[str, str]
    path: str = "/predict"
    others: tuple[bytes, ...] = ()


@cache
def photograph(side: int) -> Image.Image:
    """A photograph that scikit-learn brings along, as a square."""
    whole = Image.fromarray(load_sample_image("china.jpg"))
    return whole.crop((100, 0, 527, 427)).resize((side, side), Image.Resampling.BICUBIC)


def png(manifest: Manifest) -> bytes:
    """The photograph in the size that the model takes."""
    return _png(photograph(manifest.image["height"]))


def pictures(side: int) -> list[Image.Image]:
    """Squares cut from the photographs that scikit-learn brings along, of many places and sizes."""
    generator = np.random.default_rng(0)
    found = []
    for number in range(PICTURES):
        whole = Image.fromarray(load_sample_image(("china.jpg", "flower.jpg")[number % 2]))
        length = int(generator.integers(side, min(whole.size)))
        left, top = (int(generator.integers(0, size - length + 1)) for size in whole.size)
        square = whole.crop((left, top, left + length, top + length))
        found.append(square.resize((side, side), Image.Resampling.BICUBIC))
    return found


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()


def _raw(manifest: Manifest) -> Request:
    return Request(png(manifest), {"Content-Type": "image/png"})


def _pictures(manifest: Manifest) -> Request:
    first, *others = (_png(picture) for picture in pictures(manifest.image["height"]))
    return Request(first, {"Content-Type": "image/png"}, others=tuple(others))


def _form(name: str, count: int) -> Callable[[Manifest], Request]:
    def build(manifest: Manifest) -> Request:
        head = (
            f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"; filename="a.png"\r\n'
        )
        part = f"{head}Content-Type: image/png\r\n\r\n".encode() + png(manifest) + b"\r\n"
        body = part * count + f"--{_BOUNDARY}--\r\n".encode()
        return Request(body, {"Content-Type": f"multipart/form-data; boundary={_BOUNDARY}"})

    return build


def _json(manifest: Manifest) -> Request:
    body = json.dumps({"image": base64.b64encode(png(manifest)).decode()}).encode()
    return Request(body, {"Content-Type": "application/json"})


def _json_of_many(manifest: Manifest) -> Request:
    body = json.dumps({"images": [base64.b64encode(png(manifest)).decode()] * BATCH}).encode()
    return Request(body, {"Content-Type": "application/json"})


def _zip(manifest: Manifest) -> Request:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for number in range(BATCH):
            archive.writestr(f"{number}.png", png(manifest))
    return Request(buffer.getvalue(), {"Content-Type": "application/zip"})


def _oip(manifest: Manifest) -> Request:
    """Open Inference Protocol v2, its binary-tensor extension."""
    side = manifest.image["height"]
    pixels = np.stack([np.asarray(photograph(side))] * BATCH).tobytes()
    entry = {
        "name": "images",
        "datatype": "UINT8",
        "shape": [BATCH, side, side, 3],
        "parameters": {"binary_data_size": len(pixels)},
    }
    output = {"name": "probabilities", "parameters": {"binary_data": True}}
    header = json.dumps({"inputs": [entry], "outputs": [output]}).encode()
    headers = {
        "Content-Type": "application/octet-stream",
        "Inference-Header-Content-Length": str(len(header)),
    }
    return Request(header + pixels, headers, "/v2/models/{name}/infer")


BUILD: Mapping[str, Callable[[Manifest], Request]] = {
    "raw": _raw,
    "pictures": _pictures,
    "multipart": _form("image", 1),
    "images": _form("images", 1),
    "json": _json,
    "json32": _json_of_many,
    "multipart32": _form("image", BATCH),
    "zip32": _zip,
    "oip32": _oip,
}
