"""Finds the folder of a model."""

import atexit
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from scfl_green.errors import InputError
from scfl_green.share.names import NAME, default_target, has_scheme, parse
from scfl_green.share.on_disk import INDEX
from scfl_green.share.registry import pull
from scfl_green.training.trained_model import ABOUT, WEIGHTS, has_several


def find(model: str, trusted: Sequence[str] = ()) -> Path:
    """The folder of a finished run's model, or of a shared one (``shared``); InputError, with what to name instead,
    where there is none."""
    folder = shared(model, trusted) or Path(model).expanduser()
    if not folder.is_dir():
        raise InputError(
            f"{model}: no such folder; name that of a finished run, such as logs/runs/NAME, or a model that "
            "`scfl-green share list` shows"
        )
    if has_several(folder):
        raise InputError(
            f"{model}: a run of regime=local, with a model of each site; name one, such as {folder / 'site-1'}"
        )
    if missing := [name for name in (WEIGHTS, ABOUT) if not (folder / name).is_file()]:
        raise InputError(f"{model}: no {missing[0]} there; name the folder of a finished run, or finish that run")
    return folder


def shared(model: str, trusted: Sequence[str] = ()) -> Path | None:
    """The folder of the shared model ``NAME[@VERSION]`` in the default registry, or ``TARGET/NAME[@VERSION]``; None
    where ``model`` is neither.

    It is pulled into a temporary folder, which the end of the program removes. InputError where there is none of that
    name, or where it is refused (``pull``).
    """
    if not _is_shared(model):
        return None
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
