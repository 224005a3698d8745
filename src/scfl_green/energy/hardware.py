"""CodeCarbon's tracker, and looking up the hardware that it measures while something else is being done."""

import logging
from contextlib import suppress
from threading import Thread
from typing import Any

from codecarbon import OfflineEmissionsTracker


class _Tracker(OfflineEmissionsTracker):
    """Takes no setting from CodeCarbon's own files and variables: they could multiply a run's energy unseen."""

    def _set_from_conf(self, *args: Any, **kwargs: Any) -> Any:
        self._external_conf: dict[str, Any] = {}
        return super()._set_from_conf(*args, **kwargs)


def make_tracker(country: str, cpu_watts: float | None, ram_watts: float | None) -> OfflineEmissionsTracker:
    """A tracker that has not started: of this process, without network and files."""
    # Its log level takes effect only after its first lines.
    logging.getLogger("codecarbon").setLevel(logging.CRITICAL)
    return _Tracker(
        country_iso_code=country,
        tracking_mode="process",
        output_methods=[],
        log_level="critical",
        allow_multiple_runs=True,
        **({"force_cpu_power": cpu_watts} if cpu_watts else {}),
        **({"force_ram_power": ram_watts} if ram_watts else {}),
    )


def look_up(country: str, cpu_watts: float | None, ram_watts: float | None) -> None:
    """Begin to look the hardware up, once a process: CodeCarbon waits a second for another one to time the CPU. Its
    next tracker of the same settings takes what was found, and waits if it is not ready."""

    def detect() -> None:
        with suppress(Exception):  # which the meter will meet, and tell of
            make_tracker(country, cpu_watts, ram_watts).get_detected_hardware()

    Thread(target=detect, daemon=True).start()
