"""What all parts of `python -m benchmarks.run` measure with: interleaved repeats, and processes with their children."""

import gc
import math
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Row:
    """One line of the output. ``target`` is the most that the ratio (the value, where there is none) should be, or the
    least where ``at_least``."""

    what: str
    value: float | None = None
    unit: str = ""
    reference: str = ""
    ratio: float | None = None
    target: float | None = None
    at_least: bool = False
    note: str = ""

    @property
    def met(self) -> str:
        got = self.value if self.ratio is None else self.ratio
        if self.target is None or got is None:
            return "–"
        return "yes" if (got >= self.target if self.at_least else got <= self.target) else "no"

    def to_json(self, part: str) -> dict[str, Any]:
        return {"part": part, **asdict(self), "met": self.met}


@dataclass
class Times:
    """Wall and CPU seconds (children that have ended included) of each repeat, and what was last returned."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    returned: Any = None

    def median(self, of: str = "wall") -> float:
        return float(np.median(getattr(self, of)))

    def over(self, other: "Times", of: str = "wall") -> float:
        """The median of the ratios of repeats that ran one after the other."""
        return float(np.median(np.divide(getattr(self, of), getattr(other, of))))


def clock() -> tuple[float, float]:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.perf_counter(), time.process_time() + children.ru_utime + children.ru_stime


def interleaved(ways: Mapping[str, Callable[[], Any]], repeats: int, seconds: float = math.inf) -> dict[str, Times]:
    """Each way in turn, ``repeats`` times over, or twice and then until ``seconds`` have passed: what a machine does in
    a minute falls on all alike."""
    times, began = {name: Times() for name in ways}, time.perf_counter()
    for repeat in range(repeats):
        if repeat >= 2 and time.perf_counter() - began > seconds:
            break
        for name, run in ways.items():
            gc.collect()
            wall, cpu = clock()
            times[name].returned = run()
            times[name].wall.append(clock()[0] - wall)
            times[name].cpu.append(clock()[1] - cpu)
    return times


def compared(what: str, times: Times, reference: str, other: Times, target: float | None = None) -> list[Row]:
    """Two rows: wall and CPU seconds beside a reference's; the target is for wall."""
    return [
        Row(f"{what}, wall", times.median(), "s", reference, times.over(other), target),
        Row(f"{what}, CPU", times.median("cpu"), "s", reference, times.over(other, "cpu")),
    ]


@dataclass(frozen=True)
class Usage:
    """Of a process and all its children: seconds, and the peak of their memory together (PSS, where shared pages count
    once; RSS where the system does not tell; 0 if it was not watched, which slows a process a little)."""

    wall: float
    cpu: float
    peak_mb: float
    output: str


def process(*arguments: str, watch: bool = False, timeout: float = 600, **options: Any) -> Usage:
    """Runs Python with these arguments. RuntimeError with the end of its output if it fails or takes too long."""
    with tempfile.TemporaryFile("w+") as output:
        (start, before), peak, cpu = clock(), 0.0, dict[int, float]()
        command = [sys.executable, *arguments]
        # A session of its own: its children are ended with it.
        child = psutil.Popen(command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True, **options)
        while child.poll() is None and time.perf_counter() - start < timeout:
            if watch:
                peak = max(peak, _sample(child, cpu))
            time.sleep(0.02)
        wall, late = time.perf_counter() - start, child.poll() is None
        for left in [*child.children(recursive=True), child] if late else []:
            left.kill()
        code = child.wait()
        output.seek(0)
        text = output.read()
    if late or code:
        raise RuntimeError(f"{' '.join(arguments)}: {'too slow' if late else f'exit {code}'}\n{text[-2000:]}")
    # Children that nobody waits for are in no usage but that which was sampled.
    return Usage(wall, max(clock()[1] - before, sum(cpu.values())), peak, text)


def _sample(root: psutil.Process, cpu: dict[int, float]) -> float:
    megabytes = 0.0
    with suppress(psutil.Error):
        for each in [root, *root.children(recursive=True)]:
            with suppress(psutil.Error):
                memory, times = each.memory_full_info(), each.cpu_times()
                megabytes += getattr(memory, "pss", memory.rss) / 1e6
                cpu[each.pid] = times.user + times.system
    return megabytes
