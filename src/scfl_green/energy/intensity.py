"""The carbon intensity of electricity: of each site, and of the hour."""

import logging
import time
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Annotated, Any

import numpy as np
from pydantic import AfterValidator

from scfl_green.energy.country import Country, carbon_intensity, known_country
from scfl_green.energy.hours import Curve, read_curves, told
from scfl_green.errors import InputError, listed, nearest

LOG = logging.getLogger(__name__)
# The settings that an Intensity is made of.
WHERE = ("country", "countries", "intensity", "start")
NAMES_ARE_SET = "set them as in 'carbon.countries={Muraro et al. 2016: FRA}', with a backslash before a comma or colon"


def known_countries(countries: Any) -> dict[str, str]:
    """Sites with their countries; InputError naming the site whose country is unknown."""
    if not isinstance(countries, Mapping):
        raise InputError(f"it should be a country for each site; {NAMES_ARE_SET}")
    for site, code in countries.items():
        try:
            known_country(code)
        except InputError as error:
            raise InputError(f"of {site}, {code}: {error}") from None
    return {str(site): code for site, code in countries.items()}


def known_moment(moment: str) -> str:
    """A moment that tells its time zone; InputError for any other text."""
    try:
        if datetime.fromisoformat(moment).tzinfo is not None:
            return moment
    except (TypeError, ValueError):
        pass
    raise InputError("it should be a time with its zone, such as 2024-06-01T13:00Z")


Countries = Annotated[Any, AfterValidator(lambda given: given and known_countries(given))]
Moment = Annotated[str, AfterValidator(known_moment)]


class Clock:
    """The time of a run in hours since 1970 (UTC): the world's, or one that begins at ``start``, and what a simulation
    has waited beyond it (``waited_hours``), for which nobody sleeps."""

    def __init__(self, start: str | None = None) -> None:
        self.ahead = datetime.fromisoformat(start).timestamp() / 3600 - time.time() / 3600 if start else 0.0
        self.waited_hours = 0.0

    def now(self) -> float:
        return time.time() / 3600 + self.ahead

    def wait(self, hours: float) -> None:
        self.ahead += hours
        self.waited_hours += hours

    def state_dict(self) -> dict[str, float]:
        return {"now": self.now(), "waited_hours": self.waited_hours}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Go on at the moment at which a killed run was saved."""
        self.ahead += state["now"] - self.now()
        self.waited_hours = state["waited_hours"]


class Intensity:
    """kg CO2e per kWh of electricity, by client and time; the client ``""`` is the server.

    The server, and all clients that ``countries`` does not name, have ``country``. CodeCarbon's mean of a year counts
    at any time, unless ``intensity`` names CSV files (``energy.hours``) whose zones are those countries, by their ISO
    alpha-2 or alpha-3 codes. ``start``: when the run begins, for past hours; None: now.
    """

    def __init__(
        self,
        country: Country,
        countries: Countries | None = None,
        intensity: str | list[str] | None = None,
        start: Moment | None = None,
    ) -> None:
        self.country, self.countries = country, known_countries(countries or {})
        self.means = {code: carbon_intensity(code) for code in {country, *self.countries.values()}}
        self.clock = Clock(start)
        self.curves: dict[str, Curve] = {}
        if intensity is not None:
            files = [intensity] if isinstance(intensity, str) else intensity
            curves = read_curves(files)
            self.curves = {code: _of_country(code, curves, files, len(self.means)) for code in self.means}
            self._check_covered(files)
        self._warned = False

    @classmethod
    def of(cls, carbon: Mapping[str, Any]) -> "Intensity":
        """As the settings of ``carbon`` say."""
        return cls(*(carbon[setting] for setting in WHERE))

    def _check_covered(self, files: Iterable[str]) -> None:
        for code, curve in self.curves.items():
            if not curve.covers(int(self.clock.now())):
                raise InputError(
                    f"carbon.intensity={listed(files)}: {code} is covered for {curve.period}, and the run begins at "
                    f"{told(self.clock.now())}; set carbon.start to a time within, such as "
                    f"carbon.start={told(curve.first or 0).replace(' UTC', 'Z').replace(' ', 'T')}"
                )

    @property
    def varies(self) -> bool:
        """Whether it depends on the site or the hour."""
        return bool(self.curves) or len(self.means) > 1

    def check_sites(self, names: Iterable[str]) -> None:
        """InputError if a country is given for a site that is not among these."""
        names = [*names]
        for site in self.countries:
            if site not in names:
                advice = nearest(site, names) or f"there are {listed(names)}"
                raise InputError(f"carbon.countries: there is no site {site!r}; {advice}; {NAMES_ARE_SET}")

    def at(self, client: str = "", moment: float | None = None) -> float:
        """Of a client at a moment (hours since 1970; None: now)."""
        code = self.countries.get(client, self.country)
        if not self.curves:
            return self.means[code]
        hour = int(self.clock.now() if moment is None else moment)
        if not self._warned and not self.curves[code].covers(hour):
            self._warned = True
            LOG.warning("carbon.intensity: %s is not covered; the day before counts instead", told(hour))
        return self.curves[code].at(hour)

    def between(self, client: str, moment: float | None = None) -> float:
        """Of what a client sends and gets: the mean of both ends."""
        return (self.at(client, moment) + self.at("", moment)) / 2

    def mean(self, client: str, begin: float, end: float) -> float:
        """Of a client, the mean from ``begin`` to ``end`` (hours since 1970)."""
        if not self.curves or int(begin) == int(end):
            return self.at(client, begin)
        edges = np.array([begin, *range(int(begin) + 1, int(end) + 1), end])
        return float(np.average([self.at(client, edge) for edge in edges[:-1]], weights=np.diff(edges)))

    def covered(self, hour: int) -> bool:
        return all(curve.covers(hour) for curve in self.curves.values())


def _of_country(code: str, curves: Mapping[str, Curve], files: Iterable[str], n_countries: int) -> Curve:
    """The curve of a country among those of the files."""
    from pycountry import countries  # slow to import

    known = countries.get(alpha_3=code)
    for zone in (code, known.alpha_2 if known else code):
        if zone in curves:
            return curves[zone]
    if [*curves] == [""] and n_countries == 1:
        return curves[""]
    found = f"its zones are {listed(curves)}" if [*curves] != [""] else "it has no column of zones"
    raise InputError(f"carbon.intensity={listed(files)}: no hours of {code}; {found}")
