"""WorkersGrid: trains the clients of a round in parallel worker processes."""

import signal
import time
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait

import torch
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from scfl_green.energy.ledger import Key
from scfl_green.energy.meter import EnergyMeter
from scfl_green.errors import InputError
from scfl_green.federated.grid import LocalGrid, Trained
from scfl_green.federated.messages import packed


class WorkersGrid(LocalGrid):
    """A LocalGrid whose clients train in parallel, in ``n_workers`` forked processes.

    Forked workers share the cells, the model and the Trainer; only messages are copied. Replies come in order of node
    id, with the same bits as from one process.

    If a client exceeds the time-out or its process dies, it has not replied: its worker is replaced, and the other
    clients continue. Workers measure their time themselves and send it with each reply, for the meter's ledger.
    """

    def __init__(
        self,
        client_app: ClientApp,
        clients: Sequence[str],
        meter: EnergyMeter,
        n_workers: int,
        trained: Trained | None = None,
        agreed: str = "",
    ) -> None:
        if torch.cuda.is_initialized():
            raise InputError(
                f"trainer.parallel_clients={n_workers}: a process that uses a GPU cannot fork; set it to 1"
            )
        super().__init__(client_app, clients, meter, trained, agreed)
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
                        with self.meter.phase(*self.site(message)):
                            request = packed(message)
                        sizes[busy[worker]] = len(request)
                        worker.send((request, self.site(message), self.contexts[message.metadata.dst_node_id]))
                for worker in _finished(busy, timeout):
                    index, answer = busy.pop(worker), worker.receive()
                    if answer is None:
                        self._replace(worker)
                    else:
                        replies[index], context = answer
                        self.contexts[context.node_id] = context
                        self._tell(messages[index], len(replies), len(messages))
        # Each reply is released as it is yielded.
        yield from ((size, replies.pop(index, None)) for index, size in enumerate(sizes))

    def _start_workers(self) -> None:
        """Start all workers on the first call; later replace those that have died."""
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
        """Stop the workers."""
        with self.meter.elsewhere():
            for worker in self.workers:
                worker.stop()
        self.workers = []


class _Worker:
    """A forked process that answers one request at a time, and the parent's end of the connection to it."""

    def __init__(self, grid: WorkersGrid) -> None:
        self.meter, self.started = grid.meter, 0.0
        fork = get_context("fork")
        self.connection, child_end = fork.Pipe()
        # The fork also copies the parent's ends of all connections. A worker closes them, so that each worker notices
        # when the parent has died, however it died.
        parent_ends = [*(worker.connection for worker in grid.workers), self.connection]
        self.process = fork.Process(target=_work, args=(grid, child_end, parent_ends), daemon=True)
        self.process.start()
        child_end.close()

    @property
    def seconds(self) -> float:
        """Time spent on the current request."""
        return time.monotonic() - self.started

    def send(self, request: tuple[bytes, Key, Context]) -> None:
        """Send a request, what it is charged to, and the client's state, which workers do not share."""
        self.started = time.monotonic()
        with suppress(ConnectionError):  # the worker has died; ``receive`` returns None
            self.connection.send(request)

    def receive(self) -> tuple[bytes, Context] | None:
        """The reply and the client's new state; None if the worker died or has not finished; raises a client's
        InputError. Adds the worker's consumption to the meter."""
        try:
            if not self.connection.poll():
                return None
            reply, context, ledger = self.connection.recv()
        except (EOFError, OSError):
            return None
        if isinstance(reply, InputError):
            raise reply
        self.meter.add(ledger)
        return reply, context

    def stop(self) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()


def _finished(busy: Collection[_Worker], timeout: float | None) -> list[_Worker]:
    """Wait for workers; returns those that have replied, died or exceeded the time-out."""
    left = None if timeout is None else max(0.0, timeout - max(worker.seconds for worker in busy))
    ready = wait([worker.connection for worker in busy], left)
    return [w for w in busy if w.connection in ready or (timeout is not None and w.seconds >= timeout)]


def _work(grid: WorkersGrid, connection: Connection, inherited: Sequence[Connection]) -> None:
    """The loop of a worker: answers requests until the parent is gone."""
    for other in inherited:
        other.close()
    # Ctrl-C in a terminal reaches every process; only the parent acts on it, and stops the workers.
    # SLURM's warnings do, too.
    for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # A fork does not copy OpenMP's threads, and it would wait for them forever.
    torch.set_num_threads(1)
    with suppress(EOFError, OSError):  # the parent has closed its end
        while True:
            request, site, context = connection.recv()
            grid.contexts[context.node_id] = context
            grid.meter.take()  # discards what the parent had not read at the fork
            try:
                with grid.meter.phase(*site):
                    reply: bytes | InputError = grid.answer(request)
            except InputError as error:
                reply = error
            connection.send((reply, context, grid.meter.take()))
