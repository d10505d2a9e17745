"""Runs gathered across requests: what is run together, who gets what, and what happens when it goes wrong."""

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import uvloop

from serving import batching
from serving.batching import Arrays, Batcher, Busy, Lane

MOST = 8
RUNS = 4


class Graph:
    """Doubles numbers, and remembers how many images each run had; `gate` holds runs back."""

    def __init__(self) -> None:
        self.seen: list[int] = []
        self.alone: list[bool] = []
        self.gate = threading.Event()
        self.gate.set()
        self.started = threading.Semaphore(0)

    def __call__(self, feeds: Arrays, alone: bool) -> list[Any]:
        self.alone.append(alone)
        self.seen.append(len(feeds["x"]))
        self.started.release()
        assert self.gate.wait(10)
        return [feeds["x"] * 2, -feeds["x"]]


@pytest.fixture
def graph() -> Graph:
    return Graph()


@pytest.fixture
def batcher() -> Iterator[Batcher]:
    found = Batcher(1, max_bytes=1000)
    yield found
    found.close()


def numbers(*values: float) -> dict[str, Any]:
    return {"x": np.array(values, dtype=np.float64)}


def refuse_negative(feeds: Arrays, alone: bool) -> list[Any]:
    """A graph that fails where a number is below 0."""
    if (feeds["x"] < 0).any():
        raise RuntimeError("out of memory")
    return [feeds["x"]]


async def held_back(graph: Graph, batcher: Batcher, lane: Lane) -> "asyncio.Task[Any]":
    """A run that has begun and will not end before the gate opens."""
    graph.gate.clear()
    first = asyncio.create_task(batcher.run(lane, numbers(0)))
    assert await asyncio.to_thread(graph.started.acquire, timeout=10)
    return first


def test_single_job_runs_at_once_and_gets_all_outputs(graph: Graph, batcher: Batcher):
    doubled, negated = asyncio.run(batcher.run(Lane(graph, MOST, RUNS), numbers(1, 2, 3)))
    assert (doubled.tolist(), negated.tolist()) == ([2, 4, 6], [-1, -2, -3])
    assert graph.seen == [3]


def test_what_waits_together_runs_together_and_everybody_gets_their_own(
    graph: Graph, batcher: Batcher
):
    async def ask() -> list[list[float]]:
        lane = Lane(graph, MOST, RUNS)
        first = await held_back(graph, batcher, lane)
        waiting = [asyncio.create_task(batcher.run(lane, numbers(*range(k)))) for k in (1, 3, 2, 2)]
        await asyncio.sleep(0)
        graph.gate.set()
        await first
        return [(await task)[0].tolist() for task in waiting]

    assert asyncio.run(ask()) == [[2.0 * v for v in range(k)] for k in (1, 3, 2, 2)]
    assert graph.seen == [1, 8]


def test_never_more_images_than_the_lane_allows(graph: Graph, batcher: Batcher):
    async def ask() -> None:
        lane = Lane(graph, MOST, RUNS)
        first = await held_back(graph, batcher, lane)
        waiting = [batcher.run(lane, numbers(*range(5))) for _ in range(5)]
        tasks = [asyncio.create_task(one) for one in waiting]
        await asyncio.sleep(0)
        graph.gate.set()
        await asyncio.gather(first, *tasks)

    asyncio.run(ask())
    assert graph.seen == [1, 5, 5, 5, 5, 5]


def test_several_runners_share_what_waits(graph: Graph):
    async def ask(batcher: Batcher) -> None:
        lane, other = Lane(graph, MOST, RUNS), Graph()
        blocked = Lane(other, MOST, RUNS)
        held = [await held_back(other, batcher, blocked) for _ in range(2)]
        tasks = [asyncio.create_task(batcher.run(lane, numbers(k))) for k in range(8)]
        await asyncio.sleep(0)
        other.gate.set()
        await asyncio.gather(*held, *tasks)

    batcher = Batcher(2, max_bytes=1000)
    asyncio.run(ask(batcher))
    batcher.close()
    assert sum(graph.seen) == 8
    assert graph.seen[0] == 4  # half of what waits is left to the other


def test_a_lane_has_no_more_runs_at_a_time_than_it_allows(graph: Graph):
    async def ask(batcher: Batcher) -> None:
        lane, other = Lane(graph, 1, 2), Lane(Graph(), 1, 2)
        held = [await held_back(graph, batcher, lane) for _ in range(2)]
        tasks = [asyncio.create_task(batcher.run(lane, numbers(k))) for k in range(4)]
        await batcher.run(other, numbers(1))  # there is a thread for others
        assert len(graph.seen) == 2
        graph.gate.set()
        await asyncio.gather(*held, *tasks)

    batcher = Batcher(4, max_bytes=1000)
    asyncio.run(ask(batcher))
    batcher.close()
    assert len(graph.seen) == 6


def test_a_run_knows_whether_it_is_alone(graph: Graph):
    async def ask(batcher: Batcher) -> None:
        lane = Lane(graph, 1, RUNS)
        first = await held_back(graph, batcher, lane)
        second = await held_back(graph, batcher, lane)  # beside the first
        waiting = [asyncio.create_task(batcher.run(lane, numbers(k))) for k in range(2)]
        await asyncio.sleep(0)
        graph.gate.set()
        await asyncio.gather(first, second, *waiting)
        await asyncio.to_thread(lambda: None)
        await batcher.run(lane, numbers(0))

    batcher = Batcher(2, max_bytes=1000)
    asyncio.run(ask(batcher))
    batcher.close()
    assert graph.alone[:2] == [True, False]


def test_lanes_take_turns(graph: Graph, batcher: Batcher):
    order: list[str] = []

    def named(name: str) -> Lane:
        return Lane(lambda feeds, alone: [order.append(name) or feeds["x"]], 1, RUNS)

    async def ask() -> None:
        held = Lane(graph, MOST, RUNS)
        first = await held_back(graph, batcher, held)
        lanes = [named("a"), named("b")]
        tasks = [
            asyncio.create_task(batcher.run(lane, numbers(0))) for lane in lanes for _ in range(3)
        ]
        await asyncio.sleep(0)
        graph.gate.set()
        await asyncio.gather(first, *tasks)

    asyncio.run(ask())
    assert order == ["a", "b"] * 3


def test_too_much_waiting_is_refused_and_the_rest_is_answered(graph: Graph, batcher: Batcher):
    async def ask() -> list[float]:
        lane = Lane(graph, MOST, RUNS)
        first = await held_back(graph, batcher, lane)
        tasks = [asyncio.create_task(batcher.run(lane, numbers(*range(8)))) for _ in range(15)]
        await asyncio.sleep(0)  # 960 of 1000 bytes wait
        with pytest.raises(Busy):
            await batcher.run(lane, numbers(*range(8)))
        graph.gate.set()
        await asyncio.gather(first, *tasks)
        return (await batcher.run(lane, numbers(*range(8))))[0].tolist()

    assert asyncio.run(ask()) == [2.0 * value for value in range(8)]


def test_a_job_of_any_size_is_taken_when_nothing_waits(graph: Graph):
    batcher = Batcher(1, max_bytes=1)
    assert asyncio.run(batcher.run(Lane(graph, MOST, RUNS), numbers(1, 2)))[0].tolist() == [2, 4]
    batcher.close()


def test_failure_reaches_everybody_who_waited_for_it_and_the_next_is_answered(batcher: Batcher):
    async def ask() -> list[Any]:
        lane = Lane(refuse_negative, MOST, RUNS)
        with pytest.raises(RuntimeError, match="out of memory"):
            await batcher.run(lane, numbers(-1))
        return await batcher.run(lane, numbers(1))

    assert asyncio.run(ask())[0].tolist() == [1]


def test_who_has_gone_away_is_not_computed(graph: Graph, batcher: Batcher):
    async def ask() -> None:
        lane = Lane(graph, MOST, RUNS)
        first = await held_back(graph, batcher, lane)
        tasks = [asyncio.create_task(batcher.run(lane, numbers(k))) for k in range(4)]
        await asyncio.sleep(0)
        tasks[1].cancel()
        tasks[2].cancel()
        await asyncio.sleep(0)
        graph.gate.set()
        await first
        assert [(await tasks[k])[0].tolist() for k in (0, 3)] == [[0], [6]]

    asyncio.run(ask())
    assert graph.seen == [1, 2]


def test_many_at_once_from_several_runners_do_not_mix():
    async def ask(batcher: Batcher) -> None:
        lane = Lane(lambda feeds, alone: [feeds["x"] * 2], MOST, RUNS)
        tasks = [batcher.run(lane, numbers(*([k] * (1 + k % 3)))) for k in range(300)]
        for k, found in enumerate(await asyncio.gather(*tasks)):
            assert found[0].tolist() == [2 * k] * (1 + k % 3)

    batcher = Batcher(3, max_bytes=10**6)
    asyncio.run(ask(batcher))
    batcher.close()


class Threads:
    """Answers nothing but which thread ran it."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def __call__(self, feeds: Arrays, alone: bool) -> list[Any]:
        self.seen.append(threading.get_ident())
        return [feeds["x"]]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever has been run once is quick enough for the event loop."""
    monkeypatch.setattr(batching, "_QUICK_S", 60.0)


async def one_by_one(batcher: Batcher, lane: Lane, count: int) -> None:
    """Jobs that meet nobody, each of a task of its own, as a request is."""
    for _ in range(count):
        await asyncio.create_task(batcher.run(lane, numbers(0)))
        while batcher._running:  # its thread, or the loop, has still to take note of the end
            await asyncio.sleep(0)


@pytest.mark.parametrize("count", [1, 8])
def test_who_has_been_alone_for_a_while_is_run_on_the_loop(
    batcher: Batcher, quick: None, count: int
):
    threads = Threads()
    lane = Lane(threads, MOST, RUNS)
    asyncio.run(one_by_one(batcher, lane, 8))
    assert threading.get_ident() not in threads.seen
    asyncio.run(one_by_one(batcher, lane, count))
    assert threads.seen[8:] == [threading.get_ident()] * count


def test_what_is_not_quick_is_never_run_on_the_loop(
    batcher: Batcher, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(batching, "_QUICK_S", 0.0)
    threads = Threads()
    asyncio.run(one_by_one(batcher, Lane(threads, MOST, RUNS), 20))
    assert threading.get_ident() not in threads.seen


def test_a_lane_is_quick_by_what_the_last_runs_of_that_size_took():
    lane = Lane(Threads(), MOST, RUNS)
    for _ in range(3):
        assert not lane.quick(1)  # three have to be seen
        lane.took(1, 0.001)
    assert lane.quick(1)
    assert not lane.quick(2)
    lane.took(1, 0.004)
    for _ in range(3):
        assert not lane.quick(1)
        lane.took(1, 0.001)
    assert lane.quick(1)


def test_who_arrives_together_is_run_together_in_a_thread(graph: Graph, quick: None):
    async def ask(batcher: Batcher) -> list[list[float]]:
        lane = Lane(graph, MOST, RUNS)
        await one_by_one(batcher, lane, 8)
        found = await asyncio.gather(*(batcher.run(lane, numbers(k)) for k in range(3)))
        return [answer[0].tolist() for answer in found]

    batcher = Batcher(1, max_bytes=1000)
    assert asyncio.run(ask(batcher)) == [[0], [2], [4]]
    batcher.close()
    assert sum(graph.seen[8:]) == 3
    assert len(graph.seen) < 11


def test_who_came_while_the_loop_was_held_is_not_alone(batcher: Batcher, quick: None):
    threads = Threads()
    lane = Lane(threads, MOST, RUNS)

    async def ask() -> None:
        await one_by_one(batcher, lane, 8)
        loop, late = asyncio.get_running_loop(), []

        def meanwhile(feeds: Arrays, alone: bool) -> list[Any]:
            loop.call_soon(lambda: late.append(loop.create_task(batcher.run(lane, numbers(1)))))
            return threads(feeds, alone)

        held = Lane(meanwhile, MOST, RUNS)
        for _ in range(3):
            held.took(1, 0.0)
        await asyncio.create_task(batcher.run(held, numbers(0)))
        await asyncio.sleep(0)
        await late[0]
        await one_by_one(batcher, lane, 1)  # and for a while nobody is

    asyncio.run(ask())
    here = threading.get_ident()
    assert [thread == here for thread in threads.seen[8:]] == [True, False, False]


def test_failure_on_the_loop_reaches_who_waited_and_the_next_is_answered(
    batcher: Batcher, quick: None
):
    async def ask() -> list[Any]:
        lane = Lane(refuse_negative, MOST, RUNS)
        await one_by_one(batcher, lane, 8)
        with pytest.raises(RuntimeError, match="out of memory"):
            await batcher.run(lane, numbers(-1))
        return await batcher.run(lane, numbers(1))

    assert asyncio.run(ask())[0].tolist() == [1]


def test_who_has_gone_away_is_not_computed_on_the_loop_either(batcher: Batcher, quick: None):
    threads = Threads()

    async def ask() -> None:
        lane = Lane(threads, MOST, RUNS)
        await one_by_one(batcher, lane, 8)
        gone = asyncio.create_task(batcher.run(lane, numbers(1)))
        asyncio.get_running_loop().call_soon(gone.cancel)  # before the loop comes to the run
        await asyncio.wait([gone])
        await one_by_one(batcher, lane, 1)

    asyncio.run(ask())
    assert len(threads.seen) == 9


def test_only_the_job_that_was_alone_is_run_on_the_loop(batcher: Batcher, quick: None):
    """While the loop reads others' requests, a thread may have done the lone job, and a larger one be waiting."""
    threads = Threads()
    lane = Lane(threads, MOST, RUNS)

    async def ask() -> None:
        await one_by_one(batcher, lane, 8)

        async def larger() -> None:
            end = time.monotonic() + 10
            while batcher._bytes or batcher._running:  # reads for so long that a thread is done
                assert time.monotonic() < end
            await batcher.run(lane, numbers(*range(8)))

        await asyncio.gather(*(batcher.run(lane, numbers(k)) for k in range(2)), larger())

    asyncio.run(ask())
    assert threading.get_ident() not in threads.seen[8:]


def test_who_sends_while_the_loop_is_held_is_not_alone(batcher: Batcher, quick: None):
    """Through a socket, on the loop that serves: the bytes lie there when the loop is free again."""
    threads, here = Threads(), threading.get_ident()
    other = socket.socket()

    def held(feeds: Arrays, alone: bool) -> list[Any]:
        if threading.get_ident() == here:
            other.sendall(b"x")
        return threads(feeds, alone)

    lane, late = Lane(held, MOST, RUNS), Lane(threads, MOST, RUNS)
    for _ in range(3):
        late.took(1, 0.0)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(1):
            await asyncio.create_task(batcher.run(late, numbers(1)))  # a task a request, as uvicorn
            writer.write(b"y")
        writer.close()
        await writer.wait_closed()
        gone.set()

    gone = asyncio.Event()

    async def ask() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        with other:
            await asyncio.to_thread(other.connect, server.sockets[0].getsockname())
            await one_by_one(batcher, lane, 9)
            assert await asyncio.to_thread(other.recv, 1) == b"y"
        await gone.wait()
        server.close()
        await server.wait_closed()

    uvloop.run(ask())
    assert threads.seen[8:] == [here, threads.seen[9]]
    assert threads.seen[9] != here


def test_who_asks_twice_is_alone_both_times(batcher: Batcher, quick: None):
    threads = Threads()

    async def ask() -> None:
        first, rest = Lane(threads, MOST, RUNS), Lane(threads, MOST, RUNS)

        async def both() -> None:
            for lane in (first, rest):
                await batcher.run(lane, numbers(0))
                while batcher._running:
                    await asyncio.sleep(0)

        for _ in range(12):
            await asyncio.create_task(both())
            await asyncio.sleep(0.001)  # the next one takes its way through a network

    asyncio.run(ask())
    assert threads.seen[8:] == [threading.get_ident()] * 16


def test_an_answer_that_cannot_be_handed_out_costs_no_later_one(batcher: Batcher, quick: None):
    found: list[Any] = []

    def broken(feeds: Arrays, alone: bool) -> list[Any]:
        found.append(threading.get_ident())
        return [None] if len(found) == 9 else [feeds["x"]]

    async def ask() -> list[Any]:
        lane = Lane(broken, MOST, 1)
        await one_by_one(batcher, lane, 8)
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(batcher.run(lane, numbers(0)), 0.05)
        return await asyncio.wait_for(batcher.run(lane, numbers(7)), 10)

    assert asyncio.run(ask())[0].tolist() == [7]
    assert found[8] == threading.get_ident()
