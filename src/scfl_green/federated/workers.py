"""WorkersGrid: the clients of a round in worker processes, side by side."""

import signal
import time
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait

import torch
from flwr.app import Message
from flwr.clientapp import ClientApp

from scfl_green.energy.meter import EnergyMeter
from scfl_green.errors import InputError
from scfl_green.federated.grid import LocalGrid, packed


class WorkersGrid(LocalGrid):
    """A LocalGrid whose clients train side by side, in ``n_workers`` forked processes.

    The fork gives each worker the cells and the resident module and Trainer without a copy; only messages are copied.
    Replies come in order of node id, with the same bits as from one process.

    A client that exceeds the time-out, or whose process dies, counts as not having replied: its worker is replaced and
    the other clients carry on. Workers measure what they use by their own clocks; it comes with each reply and goes
    into the meter's ledger.
    """

    def __init__(self, client_app: ClientApp, clients: list[str], meter: EnergyMeter, n_workers: int) -> None:
        if torch.cuda.is_initialized():
            raise InputError(f"trainer.parallel_clients={n_workers}: a process that uses a GPU cannot be forked; use 1")
        super().__init__(client_app, clients, meter)
        self.n_workers = n_workers
        self.workers: list[_Worker] = []

    def _replies(self, messages: Sequence[Message], timeout: float | None) -> Iterator[tuple[int, bytes | None]]:
        sizes, replies = [0] * len(messages), dict[int, bytes]()
        waiting, busy = deque(enumerate(messages)), dict[_Worker, int]()
        with self.meter.elsewhere():
            self._start_workers()
            while waiting or busy:
                for worker in self.workers:
                    if waiting and worker not in busy:
                        busy[worker], message = waiting.popleft()
                        request = packed(message)
                        sizes[busy[worker]] = len(request)
                        worker.send(request)
                for worker in _finished(busy, timeout):
                    index, reply = busy.pop(worker), worker.receive()
                    if reply is None:
                        self._replace(worker)
                    else:
                        replies[index] = reply
        # Each reply is let go of as it is handed over.
        yield from ((size, replies.pop(index, None)) for index, size in enumerate(sizes))

    def _start_workers(self) -> None:
        """Starts all workers on the first call, and on later ones those that have died since the last."""
        for worker in list(self.workers):
            if not worker.process.is_alive():
                self._replace(worker)
        if not self.workers:
            for _ in range(self.n_workers):
                self.workers.append(_Worker(self))
            # CodeCarbon counts a child's CPU time only from the first reading after it started.
            self.meter.read()

    def _replace(self, worker: "_Worker") -> None:
        worker.stop()
        self.workers[self.workers.index(worker)] = _Worker(self)

    def close(self) -> None:
        """Stops the workers."""
        with self.meter.elsewhere():
            for worker in self.workers:
                worker.stop()
        self.workers = []


class _Worker:
    """A forked process that answers one request at a time, and the parent's end of the connection to it."""

    def __init__(self, grid: WorkersGrid) -> None:
        self.meter, self.began = grid.meter, 0.0
        fork = get_context("fork")
        self.connection, theirs = fork.Pipe()
        # The fork would also copy the parent's ends of all connections. A worker closes them, so that each worker
        # notices when the parent has died, however it died.
        ours = [*(worker.connection for worker in grid.workers), self.connection]
        self.process = fork.Process(target=_work, args=(grid, theirs, ours), daemon=True)
        self.process.start()
        theirs.close()

    @property
    def seconds(self) -> float:
        """How long it has been at the current request."""
        return time.monotonic() - self.began

    def send(self, request: bytes) -> None:
        self.began = time.monotonic()
        with suppress(ConnectionError):  # the worker has died; ``receive`` says so
            self.connection.send(request)

    def receive(self) -> bytes | None:
        """The reply, None if the worker died or has not finished; raises a client's InputError.

        What the worker used is added to the meter.
        """
        try:
            if not self.connection.poll():
                return None
            reply, used = self.connection.recv()
        except (EOFError, OSError):
            return None
        if isinstance(reply, InputError):
            raise reply
        self.meter.add(used)
        return reply

    def stop(self) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()


def _finished(busy: Collection[_Worker], timeout: float | None) -> list[_Worker]:
    """Waits for workers that have replied, died or run out of time."""
    left = None if timeout is None else max(0.0, timeout - max(worker.seconds for worker in busy))
    ready = wait([worker.connection for worker in busy], left)
    return [w for w in busy if w.connection in ready or (timeout is not None and w.seconds >= timeout)]


def _work(grid: WorkersGrid, connection: Connection, inherited: Sequence[Connection]) -> None:
    """The life of a worker: it answers requests until the parent has gone."""
    for other in inherited:
        other.close()
    # Ctrl-C in a terminal reaches every process; the parent alone acts on it, and stops the workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # OpenMP's threads are not copied by a fork, and it would wait for them forever.
    torch.set_num_threads(1)
    with suppress(EOFError, OSError):  # the other end is closed
        while True:
            request = connection.recv()
            grid.meter.taken()  # discards what the parent had not read at the fork, and the time spent idle
            try:
                reply: bytes | InputError = grid.answer(request)
            except InputError as error:
                reply = error
            connection.send((reply, grid.meter.taken()))
