"""What each opt buys on this machine: seconds and joules of training on a million cells, by the run's own meter."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.measure import ROOT, Row
from benchmarks.setting import Setting, embedded, setting
from scfl_green.data.partition import Part
from scfl_green.energy.ledger import FIT
from scfl_green.errors import InputError
from scfl_green.training.trainer import effective_precision

OPTS = {
    "bf16": ["trainer.precision=mixed"],
    "width .5": ["model.width=0.5"],
    "batch 16": ["data.batch_size=16"],
    "batch 128": ["data.batch_size=128"],
    "bf16, batch 128": ["trainer.precision=mixed", "data.batch_size=128"],
}
BASELINE = "float32, batch 32"


def rows(quick: bool, cache: Path) -> Iterator[Row]:
    dataset = embedded(cache)
    for model in sorted(path.stem for path in (ROOT / "configs/model").glob("*.yaml"))[: 1 if quick else None]:
        measured: dict[str, list[tuple[float, float]]] = {BASELINE: [], **{opt: [] for opt in OPTS}}
        for _ in range(1 if quick else 3):
            for opt, taken in measured.items():
                with setting(dataset, f"model={model}", *OPTS.get(opt, [])) as ours:
                    taken.append(per_million(ours, 1 if quick else 2))
                    mode = ours.job.meter.mode
        baseline = np.array(measured[BASELINE])
        for opt, taken in measured.items():
            medians, ratios = np.median(taken, axis=0), np.median(np.array(taken) / baseline, axis=0)
            yield Row(f"{model}, {opt}", float(medians[0]), "CPU s a million cells", BASELINE, float(ratios[0]))
            yield Row(f"{model}, {opt}", float(medians[1]), "J a million cells", BASELINE, float(ratios[1]), note=mode)
    try:
        effective_precision("16-mixed", "cpu")
    except InputError as refused:
        yield Row("fp16", note=f"skipped: {refused}")


def per_million(ours: Setting, epochs: int) -> tuple[float, float]:
    """CPU seconds and joules (CPU, GPU and RAM) of training on a million cells."""
    meter, pooled = ours.job.meter, Part.pooled(list(ours.dataset.split.clients.values()))
    meter.read()
    ours.job.fit(pooled, ours.job.initial, epochs=epochs)
    meter.read()
    used = meter.total(FIT)
    return used.cpu_seconds / used.cells * 1e6, used.energy_kwh * 3.6e6 / used.cells * 1e6
