"""All measurements, against named references: python -m benchmarks.run [--quick] [--only PART ...] [--out FOLDER]

Each part's rows are kept in the folder as they come (PART.json), so that a part can be run again alone; benchmarks.md
and benchmarks.json hold those of all parts. Ends with 1 where a part failed.
"""

import argparse
import importlib
import json
import platform
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from benchmarks.measure import Row

PARTS = [
    "federated",
    "users",
    "startup",
    "loader",
    "annotate",
    "memory",
    "scaling",
    "aggregation",
    "opts",
    "parallel",
    "many_clients",
]
# These start processes and wait for them.
WAITING = ("users", "startup")
COLUMNS = ("part", "what", "value", "unit", "reference", "ratio", "target", "met", "note")


def run_part(part: str, quick: bool, out: Path) -> bool:
    """Writes a part's rows; false: it failed, which is its last row."""
    print(f"\n## {part}\n", flush=True)
    rows: list[dict[str, Any]] = []
    start, well = time.perf_counter(), True

    def add(row: Row) -> None:
        rows.append(row.to_json(part))
        about = {"quick": quick, "seconds": time.perf_counter() - start, "machine": machine(), "rows": rows}
        (out / f"{part}.json").write_text(json.dumps(about, indent=1))
        print(line(rows[-1]), flush=True)

    try:
        for row in importlib.import_module(f"benchmarks.{part}").rows(quick, out / "cache"):
            add(row)
    except Exception as error:
        traceback.print_exc()
        add(Row("failed", note=f"{type(error).__name__}: {error}".splitlines()[0]))
        well = False
    print(f"{part}: {time.perf_counter() - start:.0f} s", flush=True)
    return well


def side_by_side(*groups: Sequence[str], out: Path) -> list[bool]:
    """A quick run's times mean nothing: it is done sooner with two processes."""
    command = [sys.executable, "-m", "benchmarks.run", "--quick", "--out", str(out), "--only"]
    processes = [subprocess.Popen([*command, *parts]) for parts in groups]
    return [process.wait() == 0 for process in processes]


def machine() -> dict[str, Any]:
    packages = ("torch", "pytorch-lightning", "flwr", "codecarbon")
    return {
        "cores": psutil.cpu_count(),
        "processor": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "load": psutil.getloadavg()[0],
        **{package: version(package) for package in packages},
    }


def line(row: dict[str, Any]) -> str:
    def text(value: Any) -> str:
        if value is None:
            return "–"
        return (
            f"{value:,.3g}"
            if isinstance(value, float) and abs(value) < 1e3
            else f"{value:,.0f}"
            if isinstance(value, float)
            else str(value)
        )

    sign = "≥" if row["at_least"] else "≤"
    shown = row | {"target": None if row["target"] is None else f"{sign} {row['target']:g}"}
    return "| " + " | ".join(text(shown[column]) for column in COLUMNS) + " |"


def write_tables(out: Path) -> None:
    parts = {part: json.loads(path.read_text()) for part in PARTS if (path := out / f"{part}.json").exists()}
    (out / "benchmarks.json").write_text(json.dumps(parts, indent=1))
    head = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    lines = [line(row) for part in parts.values() for row in part["rows"]]
    (out / "benchmarks.md").write_text("\n".join([*head, *lines]) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes, one repeat: only to see that it runs")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--out", type=Path, default=Path("logs/benchmarks"))
    arguments = parser.parse_args()
    out = arguments.out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    if arguments.quick and set(arguments.only) == set(PARTS):
        rest = [part for part in PARTS if part not in WAITING]
        well = side_by_side(WAITING, rest, out=out)
    else:
        well = [run_part(part, arguments.quick, out) for part in arguments.only]
    write_tables(out)
    print(f"\n{out}/benchmarks.md")
    sys.exit(not all(well))


if __name__ == "__main__":
    from benchmarks.setting import quiet

    quiet()
    main()
