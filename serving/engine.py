"""What a loaded bundle answers to pixels, in any of its modes, together with the other requests of the moment."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.batching import Batcher, Lane
from serving.decoding import Decoder
from serving.images import Pixels
from serving.limits import MAX_WAITING_BYTES, images_at_once
from serving.manifest import COPIES, VOTES
from serving.modes import Answered, Asking, asked, voting_modes
from serving.predictor import Answers, Predictor


class Processors:
    """What all models of a process share: the threads that decode and those that run graphs.

    threads: processors to be used.
    """

    def __init__(self, threads: int) -> None:
        self.decoder = Decoder(threads)
        self.batcher = Batcher(threads, MAX_WAITING_BYTES)

    def close(self) -> None:
        """Let the threads end."""
        self.decoder.close()
        self.batcher.close()


@dataclass(frozen=True)
class Votes:
    """What the copies of n images say by themselves, (n, M, N) float32, and the copies, (n, M, H, W, 3) uint8."""

    probabilities: Answers
    copies: NDArray[np.uint8] | None


@dataclass(frozen=True)
class Answer:
    """What a mode says of some images, with what their copies say where that was asked for.

    values, passes: as in modes.Answered.
    """

    values: Answers
    passes: NDArray[np.int64]
    votes: Votes | None = None


_SHOWN: Mapping[str | None, tuple[str, ...]] = {
    None: (),
    "votes": (VOTES,),
    "copies": (VOTES, COPIES),
}


class Engine:
    """A predictor's modes, as coroutines: what several requests ask for at once is run together."""

    def __init__(self, predictor: Predictor, batcher: Batcher) -> None:
        self._predictor = predictor
        self._batcher = batcher
        self._lanes: dict[tuple[str, tuple[str, ...]], Lane] = {}
        voting = [mode for mode in voting_modes(predictor.manifest) if mode in predictor.modes]
        self._votes_by = voting[0] if voting else ""

    @property
    def explains(self) -> bool:
        """Whether there are transformed copies that vote."""
        return bool(self._votes_by)

    async def answer(self, images: Pixels, mode: str, *, explain: str | None = None) -> Answer:
        """The answer of a mode of the bundle to images (n, H, W, 3) uint8 of its size.

        explain: "votes", or "copies" for the votes with the copies; of an engine that explains. What the votes take
            counts among the passes; in `auto` they are no more than M.

        Raises:
            Busy: too much is waiting.
        """
        wanted = _SHOWN[explain]
        asking = asked(self._predictor.manifest, images, mode, wanted, self._votes_by)
        answered = await self._answered(asking)
        votes = None
        if wanted:
            votes = Votes(answered.shown[0], answered.shown[1] if len(wanted) > 1 else None)
        return Answer(answered.values, answered.passes, votes)

    async def _answered(self, asking: Asking) -> Answered:
        try:
            question = next(asking)
            while True:
                question = asking.send(await self._run(*question))
        except StopIteration as done:
            answered: Answered = done.value
            return answered

    async def _run(
        self, graph: str, feeds: Mapping[str, NDArray[Any]], outputs: Sequence[str]
    ) -> list[NDArray[Any]]:
        """Outputs of a graph, in parts where it is too much for one run."""
        lane = self._lane(graph, tuple(outputs))
        count = len(next(iter(feeds.values())))
        if count <= lane.most:
            return await self._batcher.run(lane, feeds)
        parts = [
            {name: array[first : first + lane.most] for name, array in feeds.items()}
            for first in range(0, count, lane.most)
        ]
        found = await asyncio.gather(*(self._batcher.run(lane, part) for part in parts))
        return [np.concatenate(output) for output in zip(*found, strict=True)]

    def _lane(self, graph: str, outputs: tuple[str, ...]) -> Lane:
        found = self._lanes.get((graph, outputs))
        if found is None:
            predictor = self._predictor
            most = max(1, images_at_once(predictor.spec) // predictor.graph(graph).forward_passes)
            found = Lane(
                lambda feeds, alone: predictor.run(graph, feeds, outputs, alone=alone),
                most,
                predictor.runs_at_once(graph),
            )
            self._lanes[graph, outputs] = found
        return found
