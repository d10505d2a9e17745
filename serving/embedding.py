"""What a loaded encoder says of pictures: their embeddings. Knows no HTTP."""

import time
from typing import Any

import numpy as np

from serving.errors import from_image_error, item_error, require_few
from serving.form import EmbedForm
from serving.images import ImageError
from serving.model import Model, mode_of
from serving.predictor import unit


async def embed(model: Model, wanted: EmbedForm) -> dict[str, Any]:
    """The embeddings of images, in their order, in the fields of schemas.Embeddings.

    Raises:
        RequestError: an unknown mode, too many images; an unusable image, if it is the only one.
        Busy: too much is waiting.
    """
    manifest, mode = model.predictor.manifest, mode_of(model, wanted.mode)
    require_few(len(wanted.items), model.predictor.spec)
    start = time.perf_counter()
    decoded = await model.processors.decoder.decode(
        [item.data for item in wanted.items], model.predictor.spec
    )
    if not wanted.many and isinstance(decoded[0], ImageError):
        raise from_image_error(decoded[0])
    good = [pixels for pixels in decoded if not isinstance(pixels, ImageError)]
    vectors = iter(())
    if good:
        values = (await model.engine.answer(np.stack(good), mode)).values  # (n, D)
        vectors = iter((unit(values) if wanted.normalize else values).tolist())
    return {
        "model": model.name,
        "version": model.version,
        "mode": mode,
        "dimensions": manifest.dimensions,
        "normalized": wanted.normalize,
        "embeddings": [None if isinstance(one, ImageError) else next(vectors) for one in decoded],
        "errors": [
            {"place": place, "name": wanted.items[place].name, **item_error(one)["error"]}
            for place, one in enumerate(decoded)
            if isinstance(one, ImageError)
        ],
        "milliseconds": round((time.perf_counter() - start) * 1000, 3),
    }
