"""Several devices: one process each, every one with its share of every batch. DDP averages their gradients.

`--devices N` starts the processes (torch.multiprocessing), torchrun has started them already; from there on
both are the same. Every process draws and augments the whole batch of the one random order and keeps its own
rows, so that a run does not depend on N but for the order of sums (and for BatchNorm, whose statistics are
those of a process's own rows). The first process alone validates, writes and speaks.
"""

import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from types import FrameType
from typing import Any, TypeVar

import torch
from lightning.fabric import Fabric
from lightning.fabric.strategies.ddp import DDPStrategy
from torch import Tensor, distributed, multiprocessing
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # which torch does not declare
from torch.multiprocessing.spawn import ProcessException, start_processes

from serving.limits import available_cpus
from training.errors import ConfigError, TrainingError

C = TypeVar("C")  # settings
# the others wait while the first process reads the data, validates and tests
PATIENCE = timedelta(days=7)


@dataclass(frozen=True)
class Team:
    """The processes of a run, as one of them sees them. rank in [0, size); device: its own."""

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this process is the one that validates, writes and speaks."""
        return self.rank == 0

    def rows_of(self, count: int) -> slice:
        """Which rows of a batch are this process's: the rank-th of `size` equal parts. count: of the batch, B."""
        rows = count // self.size
        return slice(self.rank * rows, (self.rank + 1) * rows)

    def share(self, batch: Tensor) -> Tensor:
        """This process's rows of a batch (B, ...), (B / size, ...)."""
        return batch[self.rows_of(len(batch))]

    def agreed(self, raised: bool) -> bool:
        """Whether any process has raised its flag; asked by all of them at the same step.

        One number over the processor's connections: a GPU is not waited for.
        """
        return raised if self.size == 1 else self._sum(float(raised)) > 0

    def mean(self, value: float) -> float:
        """The mean over the processes."""
        return value if self.size == 1 else self._sum(value) / self.size

    def gather(self, rows: Tensor) -> Tensor:
        """The rows of all processes in order of rank, (b, ...) -> (B, ...), with gradients: backward sums over them."""
        if self.size == 1:
            return rows
        gathered: Tensor = _Gather.apply(rows)
        return gathered

    @contextmanager
    def first_ahead(self) -> Iterator[None]:
        """The first process goes through the block, then the others: what it writes or downloads is there for them."""
        if not self.first:
            self._sum(0.0)
        yield
        if self.first and self.size > 1:
            self._sum(0.0)

    def _sum(self, value: float) -> float:
        total = torch.tensor(
            value, dtype=torch.float64
        )  # on the CPU, also where the network is not
        distributed.all_reduce(total)
        return total.item()


class _Gather(torch.autograd.Function):
    """torch's own gather with gradients is deprecated, and what replaces it wants a backend that can scatter."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows) for _ in range(distributed.get_world_size())]
        distributed.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (gradient,) = gradients
        total = gradient.contiguous().clone()
        distributed.all_reduce(total)
        return total.chunk(distributed.get_world_size())[distributed.get_rank()]


ALONE = Team()


def count(given: int | None, kept: int | None, batch_size: int, device: torch.device) -> int:
    """How many processes train: those that torchrun started, else as given, else as the run had before, else one.

    Raises:
        ConfigError: more than there are GPUs or processors, or the batch cannot be shared out evenly.
    """
    wanted = given or kept or 1
    if launched():
        wanted = int(os.environ["WORLD_SIZE"])
        if given not in (None, wanted):
            raise ConfigError(
                f"--devices {given} under torchrun, which started {wanted} processes; leave --devices out"
            )
        if os.environ.get("LOCAL_WORLD_SIZE", str(wanted)) != str(wanted):
            raise ConfigError("torchrun over several machines is not supported; use one")
    if device.type == "cuda" and wanted > torch.cuda.device_count():
        raise ConfigError(
            f"--devices {wanted}, but torch finds {torch.cuda.device_count()} CUDA devices here"
        )
    if device.type == "cpu" and not launched() and wanted > available_cpus():
        raise ConfigError(
            f"--devices {wanted}, but there are {available_cpus()} processors here; give at most as many"
        )
    check_shares(batch_size, wanted)
    return wanted


def check_shares(batch_size: int, processes: int) -> None:
    """Refuse a batch that is not the same size in every process.

    Raises:
        ConfigError: it is not.
    """
    if batch_size % processes:
        raise ConfigError(
            f"a batch of {batch_size} images cannot be shared evenly by {processes} devices; "
            f"give a --batch-size that is a multiple of {processes}"
        )


def launched() -> bool:
    """Whether this process is one of several that torchrun, or `launch`, has started."""
    return distributed.is_available() and distributed.is_torchelastic_launched()


@contextmanager
def joined(size: int, device: torch.device) -> Iterator[Team]:
    """The team of this process, on a device of its own; with a size of one, it is alone and nothing is set up."""
    if size == 1:
        yield Team(device)
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    distributed.init_process_group(backend, timeout=PATIENCE)
    yield Team(device, distributed.get_rank(), size)
    distributed.destroy_process_group()


def fabric(team: Team, precision: Any, *, find_unused: bool = False) -> Fabric:
    """Lightning Fabric on the team's device, with DDP where there are several. find_unused: as DDP has it."""
    if team.size == 1:
        return Fabric(accelerator=team.device.type, devices=1, precision=precision)
    strategy = DDPStrategy(find_unused_parameters=find_unused)
    made = Fabric(
        accelerator=team.device.type, devices=team.size, strategy=strategy, precision=precision
    )
    made.launch()
    return made


def launch(function: Callable[[C], object], config: C, processes: int) -> None:
    """Call function(config) in that many new processes, and wait for them.

    What goes wrong in one of them is raised here, once. Ctrl-C and SIGTERM are passed on: the processes
    finish their step and save. A second one ends them at once.

    Raises:
        TrainingError: as function.
    """
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    logging.getLogger("torch.multiprocessing.spawn").setLevel(logging.ERROR)
    faults = multiprocessing.get_context("spawn").SimpleQueue()
    arguments = (function, config, processes, store.port, faults)
    with _passing_on_signals() as signals:
        started = start_processes(
            _work, arguments, nprocs=processes, join=False, start_method="spawn"
        )
        signals.watch(started.processes)
        try:
            while not started.join():
                pass
        except ProcessException:
            if not faults.empty():
                raise faults.get() from None
            if signals.received:
                raise KeyboardInterrupt from None
            raise


def _work(
    rank: int,
    function: Callable[[C], object],
    config: C,
    size: int,
    port: int,
    faults: Any,
) -> None:
    """One process, in the surroundings that torchrun would give it. What the user can mend is told to the launcher.

    Unless OMP_NUM_THREADS says otherwise, the processes share the processors' threads evenly among them.
    """
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "GROUP_RANK": "0",
        "WORLD_SIZE": str(size),
        "LOCAL_WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_RUN_ID": "viewfold",
        "TORCHELASTIC_RESTART_COUNT": "0",
        "TORCHELASTIC_USE_AGENT_STORE": "True",  # the launcher keeps it, as torchrun's does
    }
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, available_cpus() // size))
    try:
        function(config)
    except (TrainingError, OSError) as error:
        faults.put(error)
        sys.exit(2)


class _Signals:
    """SIGINT and SIGTERM, passed on to processes as SIGTERM; a second one kills them."""

    def __init__(self) -> None:
        self.received = False
        self._processes: list[Any] = []

    def watch(self, processes: list[Any]) -> None:
        self._processes = processes
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        for process in self._processes:
            if process.is_alive():
                process.kill() if self.received else process.terminate()
        if self.received:
            raise KeyboardInterrupt
        self.received = True


@contextmanager
def _passing_on_signals() -> Iterator[_Signals]:
    """Signals for processes started inside, which are born deaf to Ctrl-C: it reaches them through their parent."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield _Signals()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
