"""From what a user calls a model to the folder that holds it."""

import atexit
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from scfl_green.share.names import NAME, default_target, has_scheme, parse
from scfl_green.share.on_disk import INDEX
from scfl_green.share.registry import pull


def find(model: str, trusted: Sequence[str] = ()) -> Path:
    """The folder of ``model``: a run's or a pulled model's folder; ``NAME[@VERSION]`` in the default registry; or
    ``TARGET/NAME[@VERSION]``.

    A shared model is pulled into a temporary folder, which the end of the program removes. Raises InputError if there
    is none of that name. A path that leads nowhere is returned as it is, for ``TrainedModel.load`` to report.
    """
    if not _is_shared(model):
        return Path(model)
    address = parse(model)
    # Anew each time, since a registry may have been made anew with the same names and versions.
    folder = Path(tempfile.mkdtemp(prefix="scfl-green-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return pull(address, folder / address.name, trusted)


def _is_shared(model: str) -> bool:
    if has_scheme(model):
        return True
    place, _, name = model.rpartition("/")
    if not place and Path(model).is_dir():
        return False
    target = place or default_target()
    return NAME.fullmatch(name.partition("@")[0]) is not None and (
        has_scheme(target) or (Path(target).expanduser() / INDEX).is_file()
    )
