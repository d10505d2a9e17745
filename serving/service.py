"""The BentoML service: `viewfold serve`, `bentoml serve` and Bentos run this. Importing it needs no bundle.

on_deployment   in the starting process, before there are workers: one sentence if it cannot work
__init__        in each worker: load the bundle once
predict         POST /predict, in a thread of the worker, so that the event loop stays free
"""

import json

import bentoml
from bentoml.exceptions import BentoMLException
from starlette.responses import Response

from serving import errors, form, model, packaging, pages, schemas, settings
from serving.bundle import BundleError
from serving.gate import Catch, GatedService
from serving.predictor import DeviceError, ModeError

packaging.no_usage_reports()


def _settings() -> settings.Settings:
    try:
        return settings.read()
    except settings.SettingsError as error:
        raise BentoMLException(str(error)) from None


def answer(loaded: model.Model, request: form.Received | form.Refused) -> Response:
    """What POST /predict answers to what was received."""
    if isinstance(request, form.Refused):
        return errors.response(request.error, request.request_id)
    try:
        wanted = form.parse(request)
        prediction = model.classify(loaded, wanted.image, wanted.mode, wanted.top_k)
    except errors.RequestError as error:
        return errors.response(error, request.request_id)
    return Response(json.dumps(prediction, ensure_ascii=False), media_type="application/json")


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
    """Classify images in one forward pass, or in several, by a switch."""

    def __init__(self) -> None:
        self._model = model.load(_settings())
        pages.show(self._model)

    @bentoml.api(input_spec=schemas.PredictInput, output_spec=schemas.Prediction)  # type: ignore[untyped-decorator]
    def predict(self, request: form.Received | form.Refused, /) -> Response:
        """The class that an image shows, and how sure the model is."""
        return answer(self._model, request)

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
