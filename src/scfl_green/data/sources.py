"""Where a dataset comes from."""

import os
from importlib import resources
from pathlib import Path

import anndata as ad

from scfl_green.errors import InputError


def packaged(name: str) -> ad.AnnData:
    """A dataset that comes with the package: ``pancreas``."""
    with resources.as_file(resources.files("scfl_green.data") / "packaged" / f"{name}.h5ad") as path:
        return ad.read_h5ad(path)


def h5ad(path: str) -> ad.AnnData:
    """The user's own file; a bare file name is also looked for in the folder that ``SCFL_DATA`` names."""
    places = [Path(path).expanduser()]
    if folder := os.environ.get("SCFL_DATA"):
        places.append(Path(folder) / path)
    for place in places:
        if place.is_file():
            try:
                return ad.read_h5ad(place)
            except Exception as error:  # a broken file can make anndata raise anything
                raise InputError(f"{place}: not a readable h5ad file ({' '.join(str(error).split())})") from error
    raise InputError(f"no file at {' or '.join(str(p) for p in places)}; set data.path, or SCFL_DATA to its folder")
