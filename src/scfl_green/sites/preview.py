"""What a site would tell, for its people to read before it joins."""

from scfl_green.errors import InputError
from scfl_green.sites.border import CROSSINGS
from scfl_green.sites.settings import Limits, SiteSettings
from scfl_green.terminal import drawn, wrapped

# Genes that are shown of all.
SHOWN = 5


def preview(settings: SiteSettings) -> str:
    """What the site would tell, and what its limits are; InputError if its cells cannot be used for training."""
    file = settings.file()
    told, fewest = file.told(), settings.limits.fewest_told
    rows = [[name, f"{n:,}" if (n or 0) >= fewest else "rare"] for name, n in sorted(told.types.items())]
    n_cells, least = int((file.labels != "").sum()), settings.limits.min_cells
    if n_cells < least:
        raise InputError(f"{settings.cells}: {n_cells} cells; at least limits.min_cells={least} are expected")
    genes = told.genes.names
    text = (
        f"{settings.name} reads {settings.cells}: {n_cells:,} cells, counts in {file.place}. The path, the names of "
        "cells, donors and columns, and all counts stay here."
    )
    return "\n".join(
        [
            wrapped(text),
            drawn(("cell type", "told"), rows, title="cell types, and the cells of each that are told"),
            wrapped(f"genes that are told: {', '.join(genes[:SHOWN])} and {len(genes) - SHOWN:,} more"),
            _messages(),
            wrapped(f"limits (in {settings.name}'s site.yaml): {_limits(settings.limits)}"),
        ]
    )


def _limits(limits: Limits) -> str:
    told = {name: value for name, value in limits.model_dump().items() if name not in ("strategies", "trusted")}
    return ", ".join(f"{name} {value if value is not None else 'none'}" for name, value in told.items())


def _messages() -> str:
    lines = [f"{one.message}: {one.tells}" for one in CROSSINGS if one.tells != "nothing"]
    return "\n".join(["all that the site tells, by message:", *map(wrapped, lines)])
