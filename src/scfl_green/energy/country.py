"""Countries: their codes, and the carbon intensity of their electricity, as CodeCarbon knows them."""

from contextlib import suppress
from difflib import get_close_matches
from typing import Annotated, Any

from codecarbon.input import DataSource
from pydantic import AfterValidator

from scfl_green.errors import InputError

# Abbreviations that ISO 3166 reserves without assigning them.
RESERVED = {"UK": "GB", "EL": "GR"}


def known_country(code: str) -> str:
    """The code; InputError, with the nearest one, for any but the alpha-3 code of a country with a known energy mix."""
    if code in (mixes := _mixes()):
        return code
    near = " or ".join(f"{other} ({mixes[other]['country_name']})" for other in _nearest(code, mixes))
    advice = f"did you mean {near}?" if near else "use a code such as DEU"
    raise InputError(f"it should be the ISO 3166 alpha-3 code of a country with a known energy mix; {advice}")


Country = Annotated[str, AfterValidator(known_country)]


def carbon_intensity(country: str) -> float:
    """Mean kg CO2e per kWh of a country's electricity, from CodeCarbon's table (Our World in Data).

    Raises InputError for an unknown code (ISO 3166 alpha-3), for which CodeCarbon would return a default.
    """
    try:
        return _mixes()[known_country(country)]["carbon_intensity"] / 1e3
    except InputError as error:
        raise InputError(f"carbon.country={country}: {error}") from None


def _mixes() -> dict[str, dict[str, Any]]:
    return DataSource().get_global_energy_mix_data()


def _nearest(word: str, mixes: dict[str, dict[str, Any]]) -> list[str]:
    """At most three codes for a name or another code of a country."""
    from pycountry import countries  # slow to import, and only for a mistake

    by_name = {mix["country_name"]: code for code, mix in mixes.items()}
    try:
        codes = [countries.lookup(RESERVED.get(word.upper(), word)).alpha_3]
    except LookupError:
        codes = [by_name[name] for name in get_close_matches(word.title(), by_name, 3, cutoff=0.75)]
        with suppress(LookupError):
            codes = codes or [country.alpha_3 for country in countries.search_fuzzy(word) if len(word) > 3]
    return [code for code in codes if code in mixes][:3]
