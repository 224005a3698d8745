"""WorkersGrid: the clients of a round in worker processes, side by side."""

import signal
import time
from collections import deque
from collections.abc import Iterator, Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait

import torch
from flwr.app import Message
from flwr.clientapp import ClientApp

from scfl_green.energy.meter import EnergyMeter
from scfl_green.errors import InputError
from scfl_green.federated.grid import LocalGrid, packed


class WorkersGrid(LocalGrid):
    """A LocalGrid whose clients train in ``n_workers`` forked processes: cells are shared, messages are all that is
    copied, and each worker has the resident module and Trainer that it was forked with. Replies come in order of node
    id, with the same bits as from one process.

    A client that takes longer than the time-out, or whose process dies, has not replied: its worker is replaced, and
    the other clients go on. What a worker used is entered in the meter's ledger by its own clock.
    """

    def __init__(self, client_app: ClientApp, clients: list[str], meter: EnergyMeter, n_workers: int) -> None:
        if torch.cuda.is_initialized():
            raise InputError(f"trainer.parallel_clients={n_workers}: a process that uses a GPU cannot be forked; use 1")
        super().__init__(client_app, clients, meter)
        self.n_workers = n_workers
        self.workers: list[_Worker] = []

    def _replies(self, messages: Sequence[Message], timeout: float | None) -> Iterator[tuple[int, bytes | None]]:
        sizes, replies = [0] * len(messages), dict[int, bytes]()
        waiting = deque(enumerate(messages))
        self._hire()
        with self.meter.elsewhere():
            while waiting or any(worker.task is not None for worker in self.workers):
                for worker in self.workers:
                    if waiting and worker.task is None:
                        task, message = waiting.popleft()
                        request = packed(message)
                        sizes[task] = len(request)
                        worker.begin(task, request)
                for worker in self._finished(timeout):
                    if (reply := worker.reply()) is None:
                        self.workers[self.workers.index(worker)] = worker.replaced()
                    else:
                        replies[worker.end()] = reply
        yield from ((size, replies.pop(task, None)) for task, size in enumerate(sizes))

    def _hire(self) -> None:
        if not self.workers:
            for _ in range(self.n_workers):
                self.workers.append(_Worker(self))
            # CodeCarbon counts a child's CPU time from the first reading that has seen it.
            self.meter.read()

    def _finished(self, timeout: float | None) -> list["_Worker"]:
        """Workers that have replied, died, or taken too long."""
        busy = [worker for worker in self.workers if worker.task is not None]
        left = None if timeout is None else max(0.0, timeout - max(worker.seconds for worker in busy))
        ready = wait([worker.connection for worker in busy], left)
        return [w for w in busy if w.connection in ready or (timeout is not None and w.seconds >= timeout)]

    def close(self) -> None:
        """Ends the workers."""
        with self.meter.elsewhere():
            for worker in self.workers:
                worker.fire()
        self.workers = []


class _Worker:
    """A forked process, and the number of the request that it works on."""

    def __init__(self, grid: WorkersGrid) -> None:
        self.grid, self.began = grid, 0.0
        self.task: int | None = None
        fork = get_context("fork")
        self.connection, theirs = fork.Pipe()
        # A worker must not hold the other ends of the pipes: it ends when all of them are closed, however this
        # process died.
        ours = [*(worker.connection for worker in grid.workers), self.connection]
        self.process = fork.Process(target=_work, args=(grid, theirs, ours), daemon=True)
        self.process.start()
        theirs.close()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began

    def begin(self, task: int, request: bytes) -> None:
        self.task, self.began = task, time.monotonic()
        self.connection.send(request)

    def reply(self) -> bytes | None:
        """The reply, None if there is none, what it took being entered in the ledger; raises a client's InputError."""
        try:
            if not self.connection.poll():
                return None
            reply, used = self.connection.recv()
        except (EOFError, OSError):
            return None
        if isinstance(reply, InputError):
            raise reply
        self.grid.meter.add(used)
        return reply

    def end(self) -> int:
        task, self.task = self.task, None
        assert task is not None
        return task

    def replaced(self) -> "_Worker":
        self.fire()
        return _Worker(self.grid)

    def fire(self) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()


def _work(grid: WorkersGrid, connection: Connection, others: Sequence[Connection]) -> None:
    for other in others:
        other.close()
    # Ctrl-C on a terminal reaches all processes: the first one ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # The threads of this process's OpenMP did not come with the fork: waiting for them would have no end.
    torch.set_num_threads(1)
    meter = grid.meter
    while True:
        try:
            request = connection.recv()
        except EOFError:
            return
        meter.taken()  # what the parent had not read yet, and the time spent idle
        try:
            reply: bytes | InputError = grid.answer(request)
        except InputError as error:
            reply = error
        try:
            connection.send((reply, meter.taken()))
        except BrokenPipeError:
            return
