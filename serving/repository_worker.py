"""What a worker does so that it serves what is wanted: it follows the state, in a thread of its own.

A model is read, checked, loaded and warmed up beside the one that it replaces, which goes on answering; then it takes
its place in one assignment. What cannot be loaded replaces nothing. Requests that have begun keep the model that they
began with, and its memory is free when the last of them has ended.
"""

import logging
import threading
from collections.abc import Callable
from contextlib import ExitStack

from serving import repository
from serving.model import Model
from serving.models import Models
from serving.repository import Fault, Repository
from serving.repository_state import LOADING, READY, UNAVAILABLE, Entry, State

FOLLOW_S = 0.2  # how often a worker looks whether something else is wanted

_log = logging.getLogger("bentoml.viewfold")


class Follower:
    """Makes the models of this process those that the state wants.

    changed: called when the models are others than before, by the thread that follows.
    """

    def __init__(
        self,
        folder: Repository,
        state: State,
        models: Models,
        make: repository.Make,
        changed: Callable[[], None],
    ) -> None:
        self.repository = folder
        self.state = state
        self.models = models
        self._make = make
        self._changed = changed
        self._done: dict[str, int] = {}  # the generation for which each model was loaded
        self._entries: dict[str, list[Entry]] = {}
        self._generation = 0
        self._stamp = (0, 0)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="follower", daemon=True)
        self._counted = ExitStack()
        self._counted.enter_context(state.worker())

    def follow(self) -> None:
        """Load and unload what has come to be wanted since the last time."""
        stamp = self.state.stamp()
        wanted = self.state.wanted()
        before = self.models.all
        for name in self._done.keys() - wanted.models.keys():
            self._unload(name)
        for name, asked in wanted.models.items():
            if self._done.get(name) != asked:
                self._load(name)
                self._done[name] = asked
        if self.models.all is not before:
            self._changed()
        self._generation = wanted.generation
        self._report()
        self._stamp = stamp

    def start(self) -> None:
        """Follow from now on."""
        self._thread.start()

    def close(self) -> None:
        """Follow no more, and be no worker any more."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        self._counted.close()

    def _run(self) -> None:
        said = ""
        while not self._stop.wait(FOLLOW_S):
            try:
                if self.state.stamp() != self._stamp:
                    self.follow()
            except Exception as error:  # a full disk must not end the following for good
                if repr(error) != said:
                    _log.exception("what is wanted cannot be followed for now")
                said = repr(error)

    def _load(self, name: str) -> None:
        current, known = self.models.all.get(name), self._entries.get(name, [])
        if current is None:
            self._entries[name] = [Entry(name, "", LOADING)]
            self._report()
        found, faults = self._try_load(name, current)
        if found is not None and found is not current:
            self.models.put(found)
            _log.info("%s, version %s, is served", name, found.version)
        self._entries[name] = _entries(name, found or current, faults)
        for entry in self._entries[name]:
            if entry.state == UNAVAILABLE and entry not in known:  # once is enough
                which = f"{name}, version {entry.version}," if entry.version else name
                _log.warning("%s cannot be served: %s", which, entry.reason)

    def _try_load(self, name: str, current: Model | None) -> tuple[Model | None, list[Fault]]:
        folder = self.repository.folder(name)
        try:
            found, faults = repository.load(folder, name, self._make, current)
        except Exception:  # a defect must not end the thread that all later loading needs
            _log.exception("%s could not be loaded", name)
            return None, [Fault("", "the server failed while loading it; its log says more")]
        if found is None and not faults:
            return None, [Fault("", "there is no bundle in its folder")]
        return found, faults

    def _unload(self, name: str) -> None:
        self.models.remove(name)
        del self._done[name], self._entries[name]
        _log.info("%s is not served any more", name)

    def _report(self) -> None:
        entries = [entry for found in self._entries.values() for entry in found]
        self.state.report(self._generation, entries)


def _entries(name: str, served: Model | None, faults: list[Fault]) -> list[Entry]:
    found = [Entry(name, fault.version, UNAVAILABLE, fault.reason) for fault in faults]
    if served is not None:
        found.append(Entry(name, served.version, READY, digest=served.digest))
    return found
