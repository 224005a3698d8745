"""A sweep's records -> results.csv: after every job of a sweep, or python -m scfl_green.collect FOLDER"""

import json
import sys
from pathlib import Path
from typing import Any

import pandas as pd
from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig

from scfl_green.files import write_atomically


def collect(folder: Path) -> pd.DataFrame:
    """Write ``results.csv``: the record of every finished run in the folders below, a row each."""
    records = [json.loads(path.read_text()) for path in sorted(folder.glob("*/result.json"))]
    results = pd.DataFrame(records)
    if len(results):
        results["versions"] = results["versions"].map(json.dumps)
        write_atomically(folder / "results.csv", results.to_csv(index=False).encode())
    return results


class CollectResults(Callback):
    """Keeps a sweep's ``results.csv`` up to date, job by job: what is killed leaves what it had."""

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        if config.hydra.mode == RunMode.MULTIRUN:
            if job_return.status == JobStatus.FAILED:
                print(f"failed: {config.hydra.sweep.subdir}: {job_return._return_value}")
            collect(Path(config.hydra.sweep.dir))


if __name__ == "__main__":
    print(f"{len(collect(Path(sys.argv[1])))} runs in {sys.argv[1]}/results.csv")
