"""The end of a server that can never answer: no worker could load anything, and nothing may be loaded later.

Only a worker finds out that a graph cannot be loaded, or that a session is not really on CUDA; and BentoML puts another
in the place of a worker that ends, for ever. So the process that started the workers reads what they say, and ends with
them.
"""

import atexit
import logging
import os
import signal
import sys
import threading
from collections.abc import Sequence

from serving.repository_state import READY, Report, State

EXIT_CODE = 2  # of every sentence that `viewfold` ends with
LOOK_S = 0.5

_AGAIN_S = 5.0  # BentoML's process drops a signal that comes while it looks after its workers


class Ending:
    """Ends this process, the first of a server, when its workers say that it can never answer.

    workers: how many there will be. Nothing is ended before each of them has tried.
    """

    def __init__(self, state: State, workers: int) -> None:
        self._state = state
        self._workers = workers
        self._ended = False
        self._never = threading.Event()

    def start(self) -> None:
        """Look from now on, as long as the process lives."""
        atexit.register(self._exit)
        threading.Thread(target=self._run, name="ending", daemon=True).start()

    def _run(self) -> None:
        reason = None
        while reason is None:
            self._never.wait(LOOK_S)
            try:
                reason = hopeless(self._state.reports(), self._workers)
            except OSError:  # a full disk must not end the looking
                continue
        print(f"error: {reason}", file=sys.stderr, flush=True)
        while _is_server():
            self._ended = True
            os.kill(os.getpid(), signal.SIGTERM)  # as if from outside: the workers end as well
            self._never.wait(_AGAIN_S)

    def _exit(self) -> None:
        if not self._ended:
            return
        logging.shutdown()
        sys.stdout.flush()
        os._exit(EXIT_CODE)  # BentoML would say 0, as after any SIGTERM


def _is_server() -> bool:
    """Whether BentoML's process manager has this process; a program that only holds a server is not ours to end."""
    handler = signal.getsignal(signal.SIGTERM)
    return getattr(handler, "__module__", "") == "circus.sighandler"


def hopeless(reports: Sequence[Report], workers: int) -> str | None:
    """Why a server to which nothing can be added will never answer; None if it does, or as long as it may yet."""
    entries = dict.fromkeys(entry for report in reports for entry in report.entries)
    tried = sum(report.generation > 0 for report in reports)
    if tried < max(workers, len(reports)) or any(entry.state == READY for entry in entries):
        return None
    said = dict.fromkeys(f"{entry.name}: {entry.reason}" for entry in entries)
    return f"nothing can be served: {'; '.join(said)}"
