"""Fine-tuning at a newcomer: its settings, and whose the cells are. Must not import torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.utils import get_method

from scfl_green.bounds import Count, Fraction
from scfl_green.data.clients import SIMULATED
from scfl_green.data.partition import Part
from scfl_green.data.seen import Seen
from scfl_green.data.sources.local import contents
from scfl_green.errors import InputError, listed

if TYPE_CHECKING:
    from scfl_green.training.job import Job


@dataclass(frozen=True)
class FineTuning:
    """How a newcomer fine-tunes.

    ``client``: which newcomer, by name; None: the first. With ``patience``, training stops after that many epochs
    without a better weighted F1 on validation cells, and ends with its best weights, which may be the untouched ones.
    ``freeze``: parameters to keep, by the beginnings of their names. ``target_f1``: the F1 on validation cells at which
    costs are compared; None: the highest that both arms reach. ``curve``: score test cells after every epoch.
    ``new_types``: learn cell types that the weights do not know.
    """

    client: str | int | None = None
    patience: Count | None = None
    freeze: Sequence[str] = ()
    target_f1: Fraction | None = None
    curve: bool = False
    new_types: bool = False


def at_one_site(config: Mapping[str, Any]) -> bool:
    """Whether a single file is a newcomer's own, all of whose cells are at that one site: fine-tuning, with no client
    held out."""
    return "finetuning" in config["regime"] and not config["split"]["newcomers"]


def client_key(config: Mapping[str, Any]) -> str | None:
    """The column of clients to read: none if all cells are at one site, or if the split makes clients of its own, which
    need no donors."""
    data, split = config["data"], config["split"]
    needs_donors = split["test"] == "donors" and data.get("donor_key") is None
    simulated = get_method(split["_target_"]) in SIMULATED and not needs_donors
    return None if simulated or at_one_site(config) else data.get("client_key")  # sites elsewhere have their own


def check_new(config: Mapping[str, Any], seen: Seen | None, paths: Sequence[Path]) -> None:
    """InputError if the newcomer's own file is one that the weights were trained on."""
    if seen is not None and at_one_site(config):
        seen.check_new(contents(paths))


def newcomer_of(job: "Job", client: str | int | None) -> Part:
    """The newcomer to fine-tune at, held out or the only client; InputError if the weights have seen it."""
    for hook in job.hooks:
        if hook.no_finetuning:
            raise InputError(hook.no_finetuning)
    if job.start is None:
        raise InputError("regime=finetune starts from an earlier run: name its folder with weights=logs/runs/NAME")
    newcomers = job.split.newcomers or job.split.clients
    if not job.split.newcomers and len(newcomers) > 1:
        raise InputError(
            f"regime=finetune needs one newcomer, and none of {listed(newcomers)} is held out: set split.newcomers, or "
            "name the newcomer's own file with data.path"
        )
    # Clients that are chunks have numbers as names.
    if client is not None and str(client) not in newcomers:
        raise InputError(f"finetuning.client={client}: the newcomers are {', '.join(newcomers)}")
    part = next(iter(newcomers.values())) if client is None else newcomers[str(client)]
    if part.name in job.start.seen.clients:
        raise InputError(
            f"finetuning.client={part.name}: the weights were trained on its cells; choose another, or if it only has "
            "the same name, rename it (a newcomer with a file of its own is named after the file)"
        )
    if not job.split.to_test([part]):
        raise InputError(f"newcomer {part.name!r} has no test cells: use split.test=cells")
    return part
