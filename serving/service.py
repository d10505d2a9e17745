"""The BentoML service: `viewfold serve`, `bentoml serve` and Bentos run this. Importing it needs no bundle.

on_deployment   in the starting process, before there are workers: one sentence if it cannot work
__init__        in each worker: load what is wanted, and follow what is wanted later
predict, embed  POST /predict and POST /embed, as coroutines: large pictures and most runs of a network have threads
"""

import bentoml
from bentoml.exceptions import BentoMLException
from starlette.responses import Response

from serving import answering, form, packaging, pages, schemas, settings
from serving.bundle import BundleError
from serving.endpoints import Endpoints
from serving.engine import Processors
from serving.gate import Catch, GatedService
from serving.models import Models
from serving.predictor import DeviceError, ModeError
from serving.repository import RepositoryError
from serving.repository_endpoints import Desk, RepositoryEndpoints
from serving.repository_keeper import Keeper, prepare

packaging.no_usage_reports()


def _settings() -> settings.Settings:
    try:
        return settings.read()
    except settings.SettingsError as error:
        raise BentoMLException(str(error)) from None


# of this process; BentoML wants its layers before a model is loaded
_models = Models()
_desk = Desk()


@bentoml.service(
    name="viewfold",
    service_class=GatedService,
    image=packaging.image(),
    envs=[{"name": "BENTOML_DO_NOT_TRACK", "value": "True"}],
    workers=_settings().workers,
    threads=_settings().threads,
    traffic={"timeout": 60},
    tracing={"excluded_urls": ".*"},
    logging={"access": {"enabled": _settings().access_log}},
)
@bentoml.asgi_app(pages.app, path="/")
class Service:
    """Classify images in one forward pass, or in several, by a switch; or embed them.

    What comes over HTTP is answered by Endpoints before it gets to the methods here, which describe it.
    """

    def __init__(self) -> None:
        wanted = _settings()
        self._processors = Processors(wanted.threads)
        self._keeper = Keeper(wanted, self._processors, _models, _desk)

    def __is_ready__(self) -> bool:  # BentoML's name for what GET /readyz asks
        return self._keeper.ready

    @bentoml.api(input_spec=schemas.PredictInput, output_spec=schemas.Prediction)  # type: ignore[untyped-decorator]
    async def predict(self, request: form.Received | form.Refused, /) -> Response:
        """The class that an image shows, and how sure the model is."""
        return await answering.answer(_models, request, answering.classify)

    @bentoml.api(input_spec=schemas.EmbedInput, output_spec=schemas.Embeddings)  # type: ignore[untyped-decorator]
    async def embed(self, request: form.Received | form.Refused, /) -> Response:
        """The vectors of one image or several, for search and for comparing."""
        return await answering.answer(_models, request, answering.embed)

    @bentoml.on_shutdown  # type: ignore[untyped-decorator]
    def close(self) -> None:
        """Let the threads end."""
        self._keeper.close()
        self._processors.close()

    @bentoml.on_deployment  # type: ignore[untyped-decorator]
    @staticmethod
    def check() -> None:
        """Refuse to start what could not answer."""
        settings.pin_bundle()
        try:
            prepare(_settings())
        except (RepositoryError, BundleError, ModeError, DeviceError) as error:
            raise BentoMLException(str(error)) from None


# from the outside to the inside
Service.add_asgi_middleware(Catch)  # type: ignore[attr-defined]  # the decorator made it BentoML's
Service.add_asgi_middleware(Endpoints, models=_models)  # type: ignore[attr-defined]
Service.add_asgi_middleware(RepositoryEndpoints, desk=_desk)  # type: ignore[attr-defined]
