"""Try the frameworks on this machine's GPU, in about five minutes: python scripts/gpu_check.py [gpu|cpu|mps]

Every framework is trained centrally in each precision, packed and batch by batch, and must score as on the processor.
Prints a Markdown table for docs/speed.md, with the name of the card; ends with 1 if a score differs.
"""

import json
import subprocess
import sys
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

TRAIN = Path(__file__).parents[1] / "train.py"
MODELS = ("linear", "actinn", "scdlc", "sccdcg", "scsmd")
PRECISIONS = ("32-true", "16-mixed", "bf16-mixed")
# Between macro F1 on the GPU and on the processor: what another seed changes.
FAR = 0.03
# Runs the program in an interpreter that tells the memory of the GPU in its last line.
PROGRAM = f"""
import runpy, sys, torch
sys.argv[0] = {str(TRAIN)!r}
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    print(torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0)
"""


def trained(folder: Path, *overrides: str) -> dict[str, Any]:
    """The record of a run, and the megabytes that it took of the GPU."""
    command = [sys.executable, "-c", PROGRAM, "regime=central", "logger=none", f"paths.logs={folder}", *overrides]
    ended = subprocess.run(command, capture_output=True, text=True)
    if ended.returncode:
        sys.exit(f"{' '.join(overrides)}: {ended.stderr.strip().splitlines()[-1]}")
    record = json.loads(next(folder.rglob("result.json")).read_text())
    return record | {"memory_mb": int(ended.stdout.split()[-1]) / 1e6}


def check_devices(accelerator: str) -> None:
    """Two devices are refused before any training."""
    command = [sys.executable, str(TRAIN), f"trainer.accelerator={accelerator}", "trainer.devices=2", "logger=none"]
    with TemporaryDirectory() as folder:
        ended = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    if ended.returncode != 1 or not ended.stderr.startswith("error: "):
        sys.exit(f"trainer.devices=2 is not refused: {ended.stderr}")


def main(accelerator: str = "gpu", models: str = ",".join(MODELS)) -> None:
    if accelerator == "gpu" and not torch.cuda.is_available():
        sys.exit("no GPU that PyTorch can use: torch.cuda.is_available() is false; install PyTorch for its CUDA")
    check_devices(accelerator)
    card = torch.cuda.get_device_name() if accelerator == "gpu" else accelerator
    print(f"{card}, PyTorch {torch.__version__}\n")
    print("| model | precision | packed | macro F1 | on the CPU | s | GPU Wh | CPU Wh | GPU MB |")
    print("|---|---|---|---|---|---|---|---|---|")
    precisions = [one for one in PRECISIONS if accelerator != "cpu" or one != "16-mixed"]
    far = []
    with TemporaryDirectory() as place:
        for model in models.split(","):
            reference = trained(Path(place) / model, "trainer=cpu", f"model={model}")["macro_f1"]
            for precision, packed in product(precisions, ("true", "false")):
                options = (f"model={model}", f"trainer.precision={precision}", f"trainer.packed={packed}")
                run = trained(Path(place, model, precision, packed), f"trainer.accelerator={accelerator}", *options)
                used = (f"{1e3 * run[f'energy_{part}_kwh']:.4f}" for part in ("gpu", "cpu"))
                scores = f"{run['macro_f1']:.3f} | {reference:.3f} | {run['seconds_fit']:.1f}"
                print(f"| {model} | {precision} | {packed} | {scores} | {' | '.join(used)} | {run['memory_mb']:.0f} |")
                far += [" ".join(options)] * (abs(run["macro_f1"] - reference) > FAR)
    if far:
        sys.exit(f"scores differ by more than {FAR}: {'; '.join(far)}")


if __name__ == "__main__":
    main(*sys.argv[1:])
