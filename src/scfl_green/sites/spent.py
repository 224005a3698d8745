"""What all trainings at a site have spent so far: grams of CO2e, and epsilon."""

import json
from dataclasses import dataclass
from pathlib import Path

from scfl_green.files import write_atomically

FILE = "spent.json"


@dataclass
class Spent:
    """Grams of CO2e of all trainings, and the epsilon that each could spend, whole, also of one that was broken off and
    begun again; kept in the site's folder. Epsilons add up (basic composition: Dwork and Roth 2014, "Algorithmic
    Foundations of Differential Privacy", theorem 3.16)."""

    folder: Path

    def __post_init__(self) -> None:
        place = self.folder / FILE
        stored = json.loads(place.read_text()) if place.is_file() else {}
        self.emissions_g: float = stored.get("emissions_g", 0.0)
        self.epsilons: list[float] = stored.get("epsilons", [])

    @property
    def epsilon(self) -> float:
        return sum(self.epsilons)

    def add(self, emissions_g: float) -> None:
        """Note the emissions of a message's work."""
        self.emissions_g += emissions_g
        self._save()

    def begin(self, epsilon: float) -> None:
        """Note the epsilon that a training may spend, before it begins."""
        self.epsilons.append(epsilon)
        self._save()

    def _save(self) -> None:
        stored = {"emissions_g": self.emissions_g, "epsilons": self.epsilons}
        write_atomically(self.folder / FILE, json.dumps(stored).encode())
