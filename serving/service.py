"""The BentoML service: `viewfold serve`, `bentoml serve` and Bentos run this. Importing it needs no bundle.

on_deployment   in the starting process, before there are workers: one sentence if it cannot work
__init__        in each worker: load the bundle once
predict, embed  POST /predict and POST /embed, in a thread of the worker, so that the event loop stays free
"""

import json
from collections.abc import Callable
from typing import Any

import bentoml
from bentoml.exceptions import BentoMLException
from starlette.responses import Response

from serving import embedding, errors, form, model, packaging, pages, schemas, settings
from serving.bundle import BundleError
from serving.gate import Catch, GatedService
from serving.predictor import DeviceError, ModeError

packaging.no_usage_reports()


def _settings() -> settings.Settings:
    try:
        return settings.read()
    except settings.SettingsError as error:
        raise BentoMLException(str(error)) from None


Work = Callable[[model.Model, form.Received], dict[str, Any]]


def classify(loaded: model.Model, request: form.Received) -> dict[str, Any]:
    """What POST /predict answers, in the fields of schemas.Prediction."""
    model.require(loaded, "classify")
    wanted = form.parse(request)
    return model.classify(loaded, wanted.image, wanted.mode, wanted.top_k)


def embed(loaded: model.Model, request: form.Received) -> dict[str, Any]:
    """What POST /embed answers, in the fields of schemas.Embeddings."""
    model.require(loaded, "embed")
    wanted = form.parse_embed(request)
    return embedding.embed(loaded, wanted.images, wanted.mode, normalize=wanted.normalize)


def answer(loaded: model.Model, request: form.Received | form.Refused, work: Work) -> Response:
    """The answer that the work becomes, or an error in the one shape of all."""
    if isinstance(request, form.Refused):
        return errors.response(request.error, request.request_id)
    try:
        content = work(loaded, request)
    except errors.RequestError as error:
        return errors.response(error, request.request_id)
    text = json.dumps(content, ensure_ascii=False, allow_nan=False)  # NaN is no JSON
    return Response(text, media_type="application/json")


@bentoml.service(
    name="viewfold",
    service_class=GatedService,
    image=packaging.image(),
    envs=[{"name": "BENTOML_DO_NOT_TRACK", "value": "True"}],
    workers=_settings().workers,
    threads=_settings().threads,
    traffic={"timeout": 60},
    tracing={"excluded_urls": ".*"},
)
@bentoml.asgi_app(pages.app, path="/")
class Service:
    """Classify images in one forward pass, or in several, by a switch; or embed them."""

    def __init__(self) -> None:
        self._model = model.load(_settings())
        pages.show(self._model)

    @bentoml.api(input_spec=schemas.PredictInput, output_spec=schemas.Prediction)  # type: ignore[untyped-decorator]
    def predict(self, request: form.Received | form.Refused, /) -> Response:
        """The class that an image shows, and how sure the model is."""
        return answer(self._model, request, classify)

    @bentoml.api(input_spec=schemas.EmbedInput, output_spec=schemas.Embeddings)  # type: ignore[untyped-decorator]
    def embed(self, request: form.Received | form.Refused, /) -> Response:
        """The vectors of one image or several, for search and for comparing."""
        return answer(self._model, request, embed)

    @bentoml.on_deployment  # type: ignore[untyped-decorator]
    @staticmethod
    def check() -> None:
        """Refuse to start what could not answer."""
        settings.pin_bundle()
        try:
            model.check(_settings())
        except (BundleError, ModeError, DeviceError) as error:
            raise BentoMLException(str(error)) from None


Service.add_asgi_middleware(Catch)  # type: ignore[attr-defined]  # the decorator made it BentoML's
