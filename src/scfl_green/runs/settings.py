"""Checks of a composed configuration, before anything is read or trained.

Signatures are the schema: the arguments of every ``_target_`` are checked against its annotations
(``runs.signatures``). All other settings, and combinations of settings, are checked here. Must not import torch, which
the checks of ``check_values`` do without.
"""

from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from importlib.util import find_spec
from typing import Annotated, Any, Literal

from pydantic import Field

from scfl_green.bounds import Count, Weight
from scfl_green.data.reading.cells import Reading
from scfl_green.energy.intensity import Intensity
from scfl_green.energy.meter import EnergyMeter
from scfl_green.errors import InputError
from scfl_green.runs.signatures import Problem, parameters_of, target_problems, unknown, value_problems

EXTRA = "-c constraints.txt -c constraints-privacy.txt -e '.[privacy]'"
Text = Annotated[str, Field(min_length=1)]
# Settings that no signature describes.
GENERAL: dict[str, dict[str, Any]] = {
    "": {
        "seed": Annotated[int, Field(ge=0, lt=2**32)],
        "seeds": Count,
        "max_seeds": Count,
        "threads": Count,
        "name": str,
        "weights": str | None,
        "trusted": list[str],
    },
    "data": {
        "name": Text,
        "path": Text | Annotated[list[Text], Field(min_length=1)] | None,
        "source": Any,
        "preprocess": Literal["log_normalise", "none"],
        "n_genes": Count,
        "standardise": bool,
        "batch_size": Count,
        "like": str,
        "likes": dict[str, Any],
    },
    "trainer": {
        "max_epochs": Count,
        "precision": Literal["32-true", "mixed", "bf16-mixed", "16-mixed"],
        "packed": bool,
        "parallel_clients": Count,
        # A run is one process on one device.
        "devices": Literal[1, "1"] | Annotated[list[int], Field(min_length=1, max_length=1)],
    },
    "federation": {"rounds": Count, "local_epochs": Count},
    "carbon": {"min_seconds": Weight},
}
# Groups without a ``_target_``, and the signatures that describe their settings.
SIGNATURES: dict[str, tuple[type, ...]] = {"data": (Reading,), "carbon": (EnergyMeter, Intensity)}
# Groups whose targets need no torch.
LIGHT = ("data", "genes", "split", "finetuning")
# Arguments of Lightning's Trainer that leave whole epochs to train, as a run counts its cells and FLOPs; the others
# are the run's own, or would train less than is recorded.
LIGHTNINGS = (
    "accelerator", "accumulate_grad_batches", "benchmark", "detect_anomaly", "deterministic", "gradient_clip_algorithm",
    "gradient_clip_val", "profiler",
)  # fmt: skip
# Lightning's options for each step, which a packed step ignores, and the values that switch them off.
PER_STEP = {"gradient_clip_val": None, "accumulate_grad_batches": 1}


def check(config: dict[str, Any]) -> None:
    """Raises InputError naming every wrong setting of a resolved configuration, its value, and what is expected."""
    from scfl_green.runs.loggers import check_installed  # it imports torch

    check_values(config)
    check_installed(config["logger"])
    _report(target_problems({**config, "trainer": _of_lightning(config)}))


def check_values(config: dict[str, Any]) -> None:
    """The same for the settings that can be checked without torch, and for combinations of settings."""
    if config["privacy"] and find_spec("opacus") is None:
        raise InputError(f"privacy=dp_sgd needs Opacus: pip install {EXTRA}")
    _report(_value_problems(config))
    for message in _conflicts(config):
        raise InputError(message)


def _report(found: Iterable[Problem]) -> None:
    """Raises InputError naming all the problems, if any."""
    problems: dict[str, list[str]] = {}
    for setting, message in found:
        problems.setdefault(setting, []).append(message)
    if problems:
        raise InputError("; ".join(f"{setting}: {', or '.join(messages)}" for setting, messages in problems.items()))


def _value_problems(config: dict[str, Any]) -> Iterator[Problem]:
    for group in GENERAL.keys() | SIGNATURES.keys():
        yield from _group_problems(group, config)
    for key in config:
        if key not in GENERAL[""] and (near := get_close_matches(key, GENERAL[""], 1, cutoff=0.75)):
            yield unknown(key, config[key], dict.fromkeys(near))
    yield from target_problems({group: config[group] for group in LIGHT})


def _of_lightning(config: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config["trainer"].items() if key not in GENERAL["trainer"]}


def _group_problems(group: str, config: dict[str, Any]) -> Iterator[Problem]:
    """Wrong values in a group, and unknown names, if signatures describe it."""
    known = dict(GENERAL.get(group, {}))
    for signature in SIGNATURES.get(group, ()):
        known = parameters_of(signature).annotations | known
    if group == "trainer":
        known |= dict.fromkeys(LIGHTNINGS, Any)
    for name, value in (config[group] if group else config).items():
        key = f"{group}.{name}" if group else name
        if name in known:
            yield from value_problems(key, known[name], value)
        elif group in SIGNATURES or (group == "trainer" and not name.startswith("_")):
            yield unknown(key, value, known)


def _conflicts(config: dict[str, Any]) -> Iterator[str]:
    """Settings that are valid on their own, but not together."""
    trainer, prune = config["trainer"], config["prune"]
    per_step = [key for key, off in PER_STEP.items() if trainer.get(key, off) not in (None, off)]
    if trainer["packed"] and per_step:
        yield f"trainer.{per_step[0]} has no effect on packed steps: set trainer.packed=false"
    if trainer["parallel_clients"] > 1 and config["threads"] > 1:
        yield "trainer.parallel_clients above 1 needs threads=1: each client has its own process"
    if config["privacy"] and (not trainer["packed"] or trainer["parallel_clients"] > 1):
        yield "privacy=dp_sgd should have trainer.packed=true and trainer.parallel_clients=1"
    rounds, epochs = config["federation"]["rounds"], trainer["max_epochs"]
    if prune and (prune["after_round"] >= rounds or prune["after_epoch"] >= epochs):
        yield "prune.after_round and prune.after_epoch should leave training after pruning; lower them"
    if config["federation"]["codec"] and not {"federation", "finetuning"} & config["regime"].keys():
        yield "opt=compress, opt=green and message= need regime=federated: other regimes send nothing"
    if prune and config["budget"]:
        yield "opt=prune and callbacks=carbon_budget each decide when training ends: choose one"
