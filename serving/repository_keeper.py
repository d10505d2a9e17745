"""From settings to models that are kept as they are wanted: before there are workers, and in each of them."""

from contextlib import ExitStack

from serving import pages, repository, repository_state
from serving.bundle import Bundle
from serving.engine import Processors
from serving.model import Model, make
from serving.models import Models
from serving.repository import Repository
from serving.repository_end import Ending
from serving.repository_endpoints import Desk
from serving.repository_state import State
from serving.repository_watch import Watcher
from serving.repository_worker import Follower
from serving.settings import Settings


def prepare(settings: Settings) -> None:
    """Check what is to be served, and write the state that the workers of this process will follow.

    Where none of them can load anything, and nothing may be loaded later, this process ends.

    Raises:
        RepositoryError, BundleError, ModeError, DeviceError: what is there cannot be served.
    """
    found = repository.open_repository(settings)
    repository.check(found, settings)
    state = State(repository_state.make_folder())
    state.begin(found.names(), found.single)
    if not settings.watch and not settings.allow_load:
        Ending(state, settings.workers).start()


class Keeper:
    """Keeps the models of a worker, from the moment when it is made."""

    def __init__(
        self, settings: Settings, processors: Processors, models: Models, desk: Desk
    ) -> None:
        def load(found: Bundle, name: str, version: str, digest: str) -> Model:
            return make(found, settings, processors, name=name, version=version, digest=digest)

        def show() -> None:
            pages.show(*models.all.values())

        self._models = models
        self._open = ExitStack()
        self._state = State(self._open.enter_context(repository_state.worker_folder()))
        if not self._state.begun:
            found = repository.open_repository(settings)
            self._state.begin(found.names(), found.single)
        folder = Repository(settings.bundle, self._state.wanted().single)
        self._follower = Follower(folder, self._state, models, load, show)
        self._follower.follow()
        if not models.all:
            show()
        self._follower.start()
        self._watcher = Watcher(folder, self._state, models)
        if settings.watch:
            self._watcher.start()
        desk.open(folder, self._state, allow_load=settings.allow_load)

    @property
    def ready(self) -> bool:
        """Whether something is served, which is what GET /v2/health/ready answers too."""
        return bool(self._models.all)

    def close(self) -> None:
        """Keep them no longer."""
        self._watcher.close()
        self._follower.close()
        self._open.close()
