"""The progress bar of a run."""

import logging
import sys
import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn

from scfl_green.training.hooks import PartialStep

# Below this, the bar leaves out scores and emissions.
WIDE = 80
SECONDS_BETWEEN_DRAWINGS = 0.1


class ProgressBar:
    """A bar of rounds or epochs with the time left, on a terminal; elsewhere nothing (``shown``).

    It is drawn only when it is told of progress, not by a thread, whose work would be charged to training.
    """

    def __init__(self) -> None:
        console = Console()
        self.shown = console.is_interactive
        columns: list[ProgressColumn] = [TextColumn("{task.description}"), BarColumn(bar_width=10)]
        columns += [TextColumn("{task.fields[part]}")]
        columns += [TextColumn("{task.fields[status]}")] if console.width >= WIDE else []
        columns += [TimeRemainingColumn(), TextColumn("left")]
        # Time left is reckoned from all of the run: a round may take longer than any shorter period.
        self.bar = Progress(
            *columns, console=console, auto_refresh=False, speed_estimate_period=1e9, disable=not self.shown
        )
        self.task = self.bar.add_task("training", total=None, part="", status="")
        self.drawn_at = 0.0
        self.diverted: list[logging.StreamHandler[Any]] = []

    def start(self) -> None:
        before = sys.stdout
        self.bar.start()
        if self.shown:
            # A line of the log goes above the bar, not into it.
            handlers = (h for h in logging.getLogger().handlers if isinstance(h, logging.StreamHandler))
            self.diverted = [handler for handler in handlers if handler.stream is before]
            self._divert()

    def stop(self) -> None:
        self.bar.stop()
        self._divert()

    def _divert(self) -> None:
        for handler in self.diverted:
            handler.setStream(sys.stdout)

    def within(self, step: PartialStep) -> None:
        """Move the bar within a round or epoch."""
        due = step.done == step.of or time.monotonic() - self.drawn_at > SECONDS_BETWEEN_DRAWINGS
        if self.shown and due:
            part = f"{step.done}/{step.of} {step.parts}"
            self._draw(step.unit, step.number, step.total, step.number - 1 + step.done / step.of, part=part)

    def after(self, unit: str, number: int, total: int, status: str) -> None:
        """Move the bar to the end of a round or epoch."""
        if self.shown:
            self._draw(unit, number, total, number, status=status)

    def _draw(self, unit: str, number: int, total: int, completed: float, **fields: str) -> None:
        done: dict[str, Any] = {"description": f"{unit} {number}/{total}", "completed": completed, **fields}
        self.bar.update(self.task, total=total, **done)
        self.bar.refresh()
        self.drawn_at = time.monotonic()
