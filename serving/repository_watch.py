"""A watched folder: what changes in it is asked for by itself. One worker watches for all of them.

A folder is looked at every second. What has changed and then stayed the same from one look to the next is asked to be
loaded, whole or not: workers verify it, and keep what they have until it verifies. A model that was not there at
several looks in a row is unloaded, since an export that replaces a bundle renames it away for a moment.
"""

import logging
import threading
from collections.abc import Iterable
from io import TextIOWrapper

from serving.models import Models
from serving.repository import Repository, Signature, head, signature
from serving.repository_state import State, Wanted

POLL_S = 1.0
ABSENT_POLLS = 3  # looks in a row at which a model has to be missing to be unloaded

_log = logging.getLogger("bentoml.viewfold")


class Watcher:
    """Asks for what changes in a repository, as long as no other worker does."""

    def __init__(self, repository: Repository, state: State, models: Models) -> None:
        self._repository = repository
        self._state = state
        self._models = models
        self._lead: TextIOWrapper | None = None
        self._last: dict[str, Signature] = {}  # at the look before
        self._asked: dict[str, Signature] = {}  # when it was last asked for
        self._absent: dict[str, int] = {}
        self._away = False  # the folder itself
        # at the look before; the first sees what the server has said when it started
        self._misnamed: list[str] | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watcher", daemon=True)

    def poll(self) -> None:
        """Look once."""
        self._lead = self._lead or self._state.try_lead()
        if self._lead is None:
            return
        try:
            present, misnamed = self._repository.look()
        except OSError as error:  # a folder on another machine may be away for a while
            if not self._away:
                _log.warning("the models' folder cannot be read: %s", error.strerror)
            self._away = True
            return
        self._away = False
        for name in misnamed:
            if self._misnamed is not None and name not in self._misnamed:
                _log.warning("%s: not served: the folder's name is not UTF-8", name)
        self._misnamed = misnamed
        wanted = self._state.wanted()
        settled = self._settled(name for name in present if name not in wanted.unloaded)
        if changed := [name for name in settled if self._is_news(name)]:
            self._state.load(changed)
        self._asked |= (
            settled  # not before: what could not be asked for is asked for at the next look
        )
        if gone := self._gone(present, wanted):
            self._state.unload(gone, for_good=False)

    def start(self) -> None:
        """Look every second from now on."""
        self._thread.start()

    def close(self) -> None:
        """Look no more."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        if self._lead is not None:
            self._lead.close()

    def _run(self) -> None:
        while not self._stop.wait(POLL_S):
            try:
                self.poll()
            except Exception:  # one look that failed must not end the watching
                _log.exception("the models' folder could not be watched")

    def _settled(self, names: Iterable[str]) -> dict[str, Signature]:
        """The models that are others than when they were last asked for, and are not being written at the moment."""
        before, self._last = self._last, {n: signature(self._repository.folder(n)) for n in names}
        return {
            name: found
            for name, found in self._last.items()
            if found == before.get(name) and found != self._asked.get(name)
        }

    def _is_news(self, name: str) -> bool:
        """Whether a model that has settled is to be asked for: at the first look only if it is not what is served."""
        first = name not in self._asked
        return not first or head(self._repository.folder(name)) != self._served(name)

    def _served(self, name: str) -> tuple[str, str]:
        served = self._models.all.get(name)
        return ("", "") if served is None else (served.version, served.digest)

    def _gone(self, present: list[str], wanted: Wanted) -> list[str]:
        missing = set() if wanted.single else wanted.models.keys() - set(present)
        self._absent = {name: self._absent.get(name, 0) + 1 for name in missing}
        gone = [name for name, polls in self._absent.items() if polls >= ABSENT_POLLS]
        for name in gone:
            self._asked.pop(name, None)
        return gone
