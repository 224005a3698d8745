"""CodeCarbon's tracker, and detecting its hardware in the background."""

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
    """A tracker of this process, not yet started, that uses neither network nor files."""
    # Its own log_level takes effect only after its first lines.
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


def detect_hardware(country: str, cpu_watts: float | None, ram_watts: float | None) -> None:
    """Start to detect the hardware in a thread: CodeCarbon waits a second to time the CPU. Its next tracker with the
    same settings uses the result, and waits for it if need be."""

    def detect() -> None:
        with suppress(Exception):  # the meter will raise it again
            make_tracker(country, cpu_watts, ram_watts).get_detected_hardware()

    Thread(target=detect, daemon=True).start()
