"""What all parts of `python -m benchmarks.run` measure with: interleaved repeats, and processes with their children."""

import gc
import math
import os
import re
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
    """Of a process: wall seconds, CPU seconds of it and its children, MB of its own at their peak (RSS), and of it and
    its children together (PSS, where shared pages count once) if it was watched, which slows it a little."""

    wall: float
    cpu: float
    rss_mb: float
    pss_mb: float
    output: str


def process(
    *arguments: str, watch: bool = False, timeout: float = 600, python: str = sys.executable, **options: Any
) -> Usage:
    """Runs Python with these arguments. RuntimeError with the end of its output if it fails or takes too long."""
    start, rss, pss, cpu, ended = time.perf_counter(), 0.0, 0.0, dict[int, float](), 0
    with tempfile.TemporaryFile("w+") as output:
        child = subprocess.Popen([python, *arguments], stdout=output, stderr=subprocess.STDOUT, **options)
        late = False
        while not ended:
            rss = max(rss, peak_mb(child.pid))
            if watch:
                pss = max(pss, _sample(child.pid, cpu))
            time.sleep(0.1 if watch else 0.01)
            if not late and time.perf_counter() - start > timeout:
                late = True
                _kill(child.pid)
            ended, status, used = os.wait4(child.pid, os.WNOHANG)
        wall, child.returncode = time.perf_counter() - start, os.waitstatus_to_exitcode(status)
        output.seek(0)
        text = output.read()
    if child.returncode:
        end = "too slow" if late else f"exit {child.returncode}"
        raise RuntimeError(f"{' '.join(arguments)}: {end}\n{text[-2000:]}")
    # Children that nobody waits for are in no usage but that which was sampled.
    seconds = max(used.ru_utime + used.ru_stime, sum(cpu.values()))
    return Usage(wall, seconds, rss, pss, text)


def peak_mb(pid: int) -> float:
    """MB of a process at its peak until now; what ``getrusage`` and ``wait4`` tell includes that of its parent."""
    with suppress(OSError):
        if found := re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text()):
            return int(found[1]) * 1024 / 1e6
    return 0.0


def _tree(root: int) -> list[psutil.Process]:
    with suppress(psutil.Error):
        process = psutil.Process(root)
        return [process, *process.children(recursive=True)]
    return []


def _kill(root: int) -> None:
    for each in _tree(root):
        with suppress(psutil.Error):
            each.kill()


def _sample(root: int, cpu: dict[int, float]) -> float:
    megabytes = 0.0
    for each in _tree(root):
        with suppress(psutil.Error):
            memory, times = each.memory_full_info(), each.cpu_times()
            megabytes += getattr(memory, "pss", memory.rss) / 1e6
            cpu[each.pid] = times.user + times.system
    return megabytes
