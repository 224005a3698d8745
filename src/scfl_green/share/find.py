"""Finds the folder of a model."""

from pathlib import Path

from scfl_green.errors import InputError
from scfl_green.training.trained_model import ABOUT, WEIGHTS, has_several


def find(model: str) -> Path:
    """The folder of a finished run's model; InputError, with what to name instead, where there is none."""
    folder = Path(model).expanduser()
    if not folder.is_dir():
        raise InputError(f"{model}: no such folder; name that of a finished run, such as logs/runs/NAME")
    if has_several(folder):
        raise InputError(
            f"{model}: a run of regime=local, with a model of each site; name one, such as {folder / 'site-1'}"
        )
    if missing := [name for name in (WEIGHTS, ABOUT) if not (folder / name).is_file()]:
        raise InputError(f"{model}: no {missing[0]} there; name the folder of a finished run, or finish that run")
    return folder
