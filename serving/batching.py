"""Runs of graphs gathered across requests: what waits together is run together, and nobody waits for company.

A few threads take what waits, the lane that has waited longest first. A thread that is free takes work at once, also
a single image; images gather only while all threads are busy. Images are counted, not requests. What may wait is
bounded in bytes: beyond that, `Busy` is raised at once. Where one job has come after the other for a while, each with
nobody beside it, quick ones are run on the event loop. Knows no HTTP and no onnxruntime.

Busy    too much is waiting already
"""

import asyncio
import functools
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Arrays = Mapping[str, NDArray[Any]]  # by input: (b, ...), the same b in all
# feeds and whether no other run is going on or waiting -> a list of (b, ...)
Run = Callable[[Arrays, bool], list[NDArray[Any]]]

# To wake a thread and be woken by it takes some tenths of a millisecond: to save them the event loop may be held so
# long, where so many jobs in a row have met nobody else's, and so many runs of that size, alone, took no longer.
_QUICK_S = 0.003
_LONELY, _SEEN = 8, 3
# Who comes while the loop is held has asked when the one that held it has its answer, and after so many turns of the
# loop: bytes are read, a task begins. More would take the next request of the same client for company.
_TURNS = 3


class Busy(Exception):
    """More is waiting than the server allows."""


@dataclass(frozen=True)
class _Job:
    """Images that go through a graph together and whose answer somebody waits for."""

    feeds: Arrays
    images: int
    size: int  # bytes
    answer: "asyncio.Future[list[NDArray[Any]]]"


class Lane:
    """What may be gathered: runs of one graph that ask for the same outputs.

    run: is called with the feeds of several jobs, concatenated along their first axis, and with whether nothing else is
        going on; from several threads, and from the event loop's.
    most: images at a time; a job may not have more. runs: how many runs may go on at a time.
    """

    def __init__(self, run: Run, most: int, runs: int) -> None:
        self.run = run
        self.most = most
        self.runs = runs
        self.jobs: deque[_Job] = deque()
        self.images = 0
        self.running = 0
        # by images: what the last runs took that were alone
        self._seconds: dict[int, deque[float]] = {}

    def quick(self, images: int) -> bool:
        """Whether a run of so many images, alone, may hold the event loop: the last ones were all quick enough."""
        seen = self._seconds.get(images, ())
        return len(seen) == _SEEN and max(seen) <= _QUICK_S

    def took(self, images: int, seconds: float) -> None:
        """Remember how long a run took that was alone."""
        self._seconds.setdefault(images, deque(maxlen=_SEEN)).append(seconds)


class Batcher:
    """The threads that run graphs, for all models of a process, and for one event loop.

    runners: threads. max_bytes: of all feeds that wait.
    """

    def __init__(self, runners: int, max_bytes: int) -> None:
        self._runners = runners
        self._max_bytes = max_bytes
        self._bytes = 0
        self._running = 0
        self._lonely = 0  # jobs in a row that met nobody else's
        self._held_by: asyncio.Task[Any] | None = None  # whose run has just held the loop
        self._ready: deque[Lane] = deque()  # lanes with jobs that may be run now, each once
        self._changed = threading.Condition()
        self._closed = False
        self._threads = [
            threading.Thread(target=self._work, name=f"runner-{k}", daemon=True)
            for k in range(runners)
        ]
        for thread in self._threads:
            thread.start()

    async def run(self, lane: Lane, feeds: Arrays) -> list[NDArray[Any]]:
        """What the lane's graph answers to these feeds: a list of (b, ...), views of what was run together.

        Raises:
            Busy: too much is waiting.
        """
        images = len(next(iter(feeds.values())))
        assert 0 < images <= lane.most
        size = sum(array.nbytes for array in feeds.values())
        loop = asyncio.get_running_loop()
        answer = loop.create_future()
        with self._changed:
            if self._bytes and self._bytes + size > self._max_bytes:
                raise Busy
            self._lonely = self._lonely + 1 if self._nobody_else() else 0
            job = _Job(feeds, images, size, answer)
            self._bytes += size
            lane.jobs.append(job)
            lane.images += images
            if self._lonely > _LONELY and lane.quick(images):
                # after what else has arrived by now
                loop.call_soon(self._run_here, lane, job, asyncio.current_task())
            else:
                self._make_ready(lane)
        found: list[NDArray[Any]] = await answer
        return found

    def close(self) -> None:
        """Finish what is running, and let the threads end; what still waits is never answered."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._ready and not self._closed:
                    self._changed.wait()
                if self._closed:
                    return
                lane = self._ready.popleft()
                jobs, alone = self._begin(lane)
            if jobs:
                _deliver(jobs, _run(lane, jobs, alone))
            with self._changed:
                self._end(lane)
            del lane, jobs  # a thread that waits keeps no model alive

    def _nobody_else(self) -> bool:
        """Whether nothing waits or runs, and nobody else's run has held the loop just now: who came then has waited."""
        held_by = self._held_by
        return not (self._bytes or self._running) and held_by in (None, asyncio.current_task())

    def _run_here(self, lane: Lane, job: _Job, asker: "asyncio.Task[Any] | None") -> None:
        """Run a job on the event loop, or let a thread do it if it is not the only one any more."""
        with self._changed:
            only = self._bytes == job.size and len(lane.jobs) == 1 and lane.jobs[0] is job
            if not only or self._running or self._closed:
                self._make_ready(lane)
                return
            jobs, alone = self._begin(lane)
        answers: Callable[[], None] | None = None
        try:
            answers = _run(lane, jobs, alone) if jobs else None
        finally:
            with self._changed:
                self._end(lane)
        self._held_by = asker
        self._let_go(asker, _TURNS)
        if answers is not None:
            answers()

    def _let_go(self, asker: "asyncio.Task[Any] | None", turns: int) -> None:
        """Forget who has held the loop, after so many turns of it and when its task is done."""
        if turns:
            asyncio.get_running_loop().call_soon(self._let_go, asker, turns - 1)
        elif asker is not None and not asker.done():
            asker.add_done_callback(lambda done: self._let_go(done, 0))
        elif self._held_by is asker:
            self._held_by = None

    def _begin(self, lane: Lane) -> tuple[list[_Job], bool]:
        """Jobs of a lane that are to be run now, and whether nothing else is going on."""
        jobs = self._take(lane)
        lane.running += 1
        self._make_ready(lane)
        alone = not self._running and not self._ready
        self._running += 1
        return jobs, alone

    def _end(self, lane: Lane) -> None:
        self._running -= 1
        lane.running -= 1
        self._make_ready(lane)

    def _make_ready(self, lane: Lane) -> None:
        """Let a thread take from a lane, if there is something that may be run now."""
        if lane.jobs and lane.running < lane.runs:
            if lane not in self._ready:
                self._ready.append(lane)
            self._changed.notify()

    def _take(self, lane: Lane) -> list[_Job]:
        """A runner's share of what waits in a lane, so that the others have something to do as well."""
        runs = min(self._runners, lane.runs)
        share = min(lane.most, -(-lane.images // runs))
        jobs: list[_Job] = []
        images = 0
        while lane.jobs and (images == 0 or images + lane.jobs[0].images <= share):
            job = lane.jobs.popleft()
            lane.images -= job.images
            self._bytes -= job.size
            if not job.answer.cancelled():
                jobs.append(job)
                images += job.images
        return jobs


def _run(lane: Lane, jobs: list[_Job], alone: bool) -> Callable[[], None]:
    """Run jobs together. Returns what hands every one its part of the answer, or what went wrong, on the event loop."""
    start = time.perf_counter()
    try:
        outputs = lane.run(_together(jobs), alone)
    except BaseException as error:
        return functools.partial(_fail, jobs, error)
    if alone:
        lane.took(sum(job.images for job in jobs), time.perf_counter() - start)
    return functools.partial(_hand_out, jobs, outputs)


def _together(jobs: list[_Job]) -> Arrays:
    if len(jobs) == 1:
        return jobs[0].feeds
    return {name: np.concatenate([job.feeds[name] for job in jobs]) for name in jobs[0].feeds}


def _hand_out(jobs: list[_Job], outputs: list[NDArray[Any]]) -> None:
    first = 0
    for job in jobs:
        if not job.answer.done():
            job.answer.set_result([output[first : first + job.images] for output in outputs])
        first += job.images


def _fail(jobs: list[_Job], error: BaseException) -> None:
    for job in jobs:
        if not job.answer.done():
            job.answer.set_exception(error)


def _deliver(jobs: list[_Job], answers: Callable[[], None]) -> None:
    """Answer on the event loop: futures belong to it. A loop that has ended waits for nothing any more."""
    loop = jobs[0].answer.get_loop()
    if not loop.is_closed():
        loop.call_soon_threadsafe(answers)
