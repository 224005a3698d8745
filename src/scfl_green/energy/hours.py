"""Carbon intensity by the hour, from a user's files: exports of Electricity Maps, or tables of hour, zone, g/kWh."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd

from scfl_green.errors import InputError, listed

# Patterns of the columns' names in small letters, the first that is found counts. Life cycle comes before direct
# emissions, since CodeCarbon's means of countries are of life cycles, too.
TIMES = (r"(date ?time|timestamp|time|hour|mtu)\b",)
ZONES = (r"zone id$", r"zone$", r"zone name$", r"country$")
INTENSITIES = (r"carbon intensity.*(life ?cycle|lca)", r"carbon intensity.*direct", r"g.*(per|/) ?kwh|carbon intensity")
NAMES = {"time": TIMES, "zone": ZONES, "intensity": INTENSITIES}
UNIT = re.compile(r"g[^/]*(per|/) ?kwh")
OFFSET = re.compile(r"(Z|[+-]\d\d:?\d\d)$")
DAY = re.compile(r"(\d{1,2})(:00){0,2}")
HIGHEST = 3000.0  # g/kWh; burning lignite takes half of that


@dataclass(frozen=True)
class Curve:
    """Carbon intensity (kg CO2e/kWh) of every hour from ``first`` on (hours since 1970, UTC); of a day that repeats if
    that is None."""

    first: int | None
    kg_per_kwh: np.ndarray

    def covers(self, hour: int) -> bool:
        return self.first is None or 0 <= hour - self.first < len(self.kg_per_kwh)

    def at(self, hour: int) -> float:
        """The intensity of an hour; after the last one that is covered, of the same time on the last day."""
        place = hour % 24 if self.first is None else hour - self.first
        if (past := place - len(self.kg_per_kwh) + 1) > 0:
            place -= 24 * -(-past // 24)
        return float(self.kg_per_kwh[max(place, 0)])

    @property
    def period(self) -> str:
        if self.first is None:
            return "a day that repeats"
        first, last = (told(hour) for hour in (self.first, self.first + len(self.kg_per_kwh) - 1))
        return f"{first} to {last}"


def told(hour: float) -> str:
    """E.g. ``2024-06-01 13:00 UTC``."""
    return f"{pd.Timestamp(hour * 3600, unit='s'):%Y-%m-%d %H:%M} UTC"


def read_curves(names: Sequence[str]) -> dict[str, Curve]:
    """The curves of these CSV files by zone (``""`` for those of a file without zones).

    Times are in UTC, or tell their offset; quarters of an hour are averaged. Raises InputError, with the line, for rows
    that are missing, not in order of time, or no intensity in g/kWh.
    """
    table = pd.concat([_read(Path(name).expanduser()) for name in names], ignore_index=True)
    return {str(zone): _curve(str(zone), rows) for zone, rows in table.groupby("zone", sort=False)}


def _read(path: Path) -> pd.DataFrame:
    """Its rows: their ``place`` (for errors), zone, hour (since 1970, or of a day: ``daily``), g/kWh."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        separator = ";" if ";" in text.partition("\n")[0] else ","
        table = pd.read_csv(StringIO(text), dtype=str, sep=separator, keep_default_na=False)
    except (OSError, ValueError) as error:  # of pandas, too
        raise InputError(f"carbon.intensity={path}: a CSV file is expected ({str(error).splitlines()[0]})") from None
    columns = _columns(path, [str(name) for name in table])
    rows = pd.DataFrame({"place": [f"{path}, line {line}" for line in range(2, len(table) + 2)]})
    rows["zone"] = table[columns["zone"]].str.strip() if "zone" in columns else ""
    rows["g_per_kwh"] = pd.to_numeric(table[columns["intensity"]], errors="coerce")
    given = table[columns["intensity"]]
    for place, value in zip(rows["place"], given.where(~rows["g_per_kwh"].between(0, HIGHEST)), strict=True):
        if isinstance(value, str):
            raise InputError(f"{place}: {value!r} is no carbon intensity in g/kWh")
    if not len(rows):
        raise InputError(f"carbon.intensity={path}: it has no rows")
    if rows["g_per_kwh"].max() < 2 and not UNIT.search(columns["intensity"].lower()):
        raise InputError(f"carbon.intensity={path}: g/kWh are expected, and these look like kg/kWh")
    return rows.assign(**_hours(path, columns["time"], table[columns["time"]].str.strip()))


def _columns(path: Path, given: Sequence[str]) -> dict[str, str]:
    plain = {re.sub(r"[\s_-]+", " ", name.strip().lower()): name for name in given}
    found = {}
    for kind, patterns in NAMES.items():
        matches = (name for pattern in patterns for key, name in plain.items() if re.match(pattern, key))
        if (name := next(matches, None)) is not None:
            found[kind] = name
    if missing := [kind for kind in ("time", "intensity") if kind not in found]:
        raise InputError(
            f"carbon.intensity={path}: no column of {' and '.join(missing)} among {listed(given)}; use hour, zone and "
            "g_per_kwh, or an export of Electricity Maps"
        )
    return found


def _hours(path: Path, name: str, times: pd.Series) -> dict[str, pd.Series]:
    if times.map(lambda text: DAY.fullmatch(text) is not None).all():
        return {"hour": times.str.extract(DAY)[0].astype(float), "daily": pd.Series(True, times.index)}
    begins = times.str.split(" - ").str[0]
    if "utc" not in name.lower() and not begins.map(lambda text: OFFSET.search(text) is not None).all():
        raise InputError(
            f"carbon.intensity={path}: the time zone of {name}={times.iloc[0]} is not known; write times such as "
            "2024-06-01T13:00Z, or call the column 'Datetime (UTC)'"
        )
    try:
        parsed = pd.to_datetime(begins, utc=True, format="mixed", dayfirst="." in begins.iloc[0][:3])
    except ValueError as error:
        raise InputError(f"carbon.intensity={path}: {name}: {str(error).splitlines()[0]}") from None
    since = (parsed - pd.Timestamp(0, tz="UTC")).dt.total_seconds() / 3600
    return {"hour": since, "daily": pd.Series(False, times.index)}


def _curve(zone: str, rows: pd.DataFrame) -> Curve:
    named = f"zone {zone}: " if zone else ""
    for place in rows["place"][rows["hour"].diff() <= 0]:
        raise InputError(f"{place}: {named}rows must be in order of time, each once")
    hours = rows.groupby(np.floor(rows["hour"]).astype(int))["g_per_kwh"].mean() / 1e3
    daily = bool(rows["daily"].all())
    expected = range(24) if daily else range(hours.index[0], hours.index[-1] + 1)
    for hour in _missing(hours.index.to_list(), expected):
        raise InputError(
            f"{rows['place'].iloc[0].rpartition(',')[0]}: {named}there is no row for hour "
            f"{hour if daily else told(hour)}; every hour is needed{', 0 to 23' if daily else ''}"
        )
    return Curve(None if daily else expected[0], hours.to_numpy())


def _missing(given: Sequence[int], expected: Sequence[int]) -> Iterator[int]:
    known = set(given)
    return (hour for hour in (*expected, *given) if (hour in known) != (hour in expected))
