"""CodeCarbon's tracker, and detecting its hardware in the background."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from threading import Lock, Thread

import psutil
from codecarbon import OfflineEmissionsTracker, emissions_tracker
from codecarbon.core import util
from codecarbon.core.cpu import DEFAULT_POWER_PER_CORE
from codecarbon.core.util import count_cpus
from codecarbon.external import ram
from codecarbon.external.hardware import CPU, GPU, MODE_CPU_LOAD

from scfl_green.energy.node import shared

# Else CodeCarbon asks SLURM for CPUs and memory: those of the job, by which it would divide the load although the power
# is the machine's; and it fails in a container, which has SLURM's variables without its programs.
util.SLURM_JOB_ID = ram.SLURM_JOB_ID = None

ONE_AT_A_TIME = Lock()


class _Tracker(OfflineEmissionsTracker):
    """Samples no more than it must."""

    def _monitor_power(self) -> None:
        """Sample power, once a second, where it must be sampled. CPU time need not: a thread that walks over all
        processes would cost training, and where Python holds it up, CodeCarbon divides by too short a time."""
        for hardware in self._hardware:
            if isinstance(hardware, GPU) or (isinstance(hardware, CPU) and hardware._mode != MODE_CPU_LOAD):
                hardware.monitor_power()


class MemoryInUse(ram.RAM):
    """RAM that draws 3 W for every 8 GB that this process and its children use.

    The ratio is CodeCarbon's until version 3, after https://www.crucial.com/support/articles-faq-memory. Since then, it
    takes at least 10 W, whatever the process uses.
    """

    watts_per_gb = 3 / 8

    def _calculate_ram_power(self, memory_gb: float) -> float:
        return self.watts_per_gb * memory_gb

    def _get_children_memories(self) -> list[int]:
        used = []
        for child in psutil.Process(self._pid).children(recursive=True):
            with suppress(psutil.Error):  # it has ended
                used.append(child.memory_full_info().uss)  # forked workers share the rest
        return used


def measure_memory_in_use(tracker: OfflineEmissionsTracker) -> None:
    """Make a started tracker, unless it was given the watts of its RAM, measure by the memory in use."""
    hardware = tracker._hardware
    for place, one in enumerate(hardware):
        if isinstance(one, ram.RAM) and one._force_ram_power is None:
            hardware[place] = MemoryInUse(tracking_mode=one._tracking_mode)


def make_tracker(country: str, cpu_watts: float | None, ram_watts: float | None) -> OfflineEmissionsTracker:
    """A tracker of this process, not yet started, that uses neither network nor files."""
    # Its own log_level takes effect only after its first lines.
    logging.getLogger("codecarbon").setLevel(logging.CRITICAL)
    with _without_settings():
        return _Tracker(
            country_iso_code=country,
            tracking_mode="process",
            output_methods=[],
            log_level="critical",
            allow_multiple_runs=True,
            # A counter of the machine's (RAPL) would charge this job with its neighbours' work.
            force_mode_cpu_load=shared(),
            **({"force_cpu_power": cpu_watts} if cpu_watts else {}),
            **({"force_ram_power": ram_watts} if ram_watts else {}),
        )


@contextmanager
def _without_settings() -> Iterator[None]:
    """No setting is taken from CodeCarbon's own files and variables: they could multiply a run's energy unseen. It
    looks for the files in the home folder, which a user need not have."""
    with ONE_AT_A_TIME:
        read, emissions_tracker.get_hierarchical_config = emissions_tracker.get_hierarchical_config, dict
        try:
            yield
        finally:
            emissions_tracker.get_hierarchical_config = read


def detect_hardware(country: str, cpu_watts: float | None, ram_watts: float | None) -> None:
    """Start to detect the hardware in a thread: CodeCarbon waits a second to time the CPU. Its next tracker with the
    same settings uses the result, and waits for it if need be."""

    def detect() -> None:
        with suppress(Exception):  # the meter will raise it again
            make_tracker(country, cpu_watts, ram_watts).get_detected_hardware()

    Thread(target=detect, daemon=True).start()


def measured_by(tracker: OfflineEmissionsTracker, watts: Mapping[str, float | None]) -> str:
    """How each component was measured, and the source of its power, e.g. ``cpu: cpu_load x 8 W (guessed: 4 W a
    thread), ram: 0.375 W a GB in use``."""
    parts = []
    for hardware in tracker._hardware:
        name = type(hardware).__name__.lower()
        given = "given" if watts.get(name) else None
        if isinstance(hardware, CPU) and hardware._mode not in ("cpu_load", "constant"):
            parts.append(f"cpu: {hardware._mode}, measured for the whole machine")
        elif isinstance(hardware, CPU):
            guess = hardware._tdp == DEFAULT_POWER_PER_CORE * count_cpus()
            known = f"guessed: {DEFAULT_POWER_PER_CORE} W a thread" if guess else f"of a {hardware._model}"
            parts.append(f"cpu: {hardware._mode} x {hardware._tdp:g} W ({given or known})")
        elif isinstance(hardware, MemoryInUse):
            parts.append(f"ram: {hardware.watts_per_gb:g} W a GB in use")
        elif name == "ram":
            parts.append(f"ram: constant {hardware.total_power().W:g} W (given)")
        else:
            parts.append(f"{name}: measured by its driver")
    return ", ".join([*sorted(parts), *(["shared node: CPU by own CPU time"] if shared() else [])])
