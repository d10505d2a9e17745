"""What a loaded encoder says of pictures: their embeddings. Knows no HTTP."""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from serving import images
from serving.errors import RequestError, from_image_error
from serving.images import Pixels
from serving.limits import MAX_REQUEST_PIXELS, images_at_once
from serving.model import Model, mode_of, require
from serving.predictor import unit


def embed(
    model: Model, encoded: Sequence[bytes], mode: str | None, *, normalize: bool
) -> dict[str, Any]:
    """The embeddings of encoded images, in their order, in the fields of schemas.Embeddings.

    Raises:
        RequestError: the bundle does not embed, an unknown mode, or an image that cannot be used (the others are
            then not answered either).
    """
    require(model, "embed")
    name, spec = mode_of(model, mode), model.predictor.spec
    start, budget = time.perf_counter(), _Budget(len(encoded))
    size = images_at_once(spec)
    parts = []
    for first in range(0, len(encoded), size):
        chunk = encoded[first : first + size]
        pixels = [budget.decode(data, spec, first + k) for k, data in enumerate(chunk)]
        parts.append(model.predictor.predict(np.stack(pixels), name))
    vectors = np.concatenate(parts)  # (n, D)
    return {
        "model": model.predictor.manifest.name,
        "mode": name,
        "dimensions": vectors.shape[1],
        "normalized": normalize,
        "embeddings": (unit(vectors) if normalize else vectors).tolist(),
        "milliseconds": round((time.perf_counter() - start) * 1000, 3),
    }


class _Budget:
    """Decodes the images of one request, up to a number of pixels together."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._pixels = 0

    def decode(self, data: bytes, spec: images.ImageSpec, place: int) -> Pixels:
        """One image as the model takes it. place: from 0 on, for the message."""
        which = f"image {place + 1} of {self._count}: " if self._count > 1 else ""
        try:
            picture = images.header(data)
            self._pixels += picture.width * picture.height
            if self._pixels <= MAX_REQUEST_PIXELS:
                return images.fit(images.load(picture, spec), spec)
        except images.ImageError as error:
            raise from_image_error(error, which) from error
        raise RequestError(
            413,
            "too_many_pixels",
            f"{which}together more than {MAX_REQUEST_PIXELS / 1e6:g} megapixels; send fewer at a time",
        )
