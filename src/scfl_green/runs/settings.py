"""Checks of a composed configuration, before anything is read or trained.

Signatures are the schema: the arguments of every ``_target_`` are checked against its annotations
(``runs.signatures``). All other settings, and combinations of settings, are checked here: ``check_plain``
goes without pandas, and ``check_values`` without torch, whose imports take longer than the checks.
"""

from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from importlib.util import find_spec
from typing import Annotated, Any, Literal

from pydantic import Field

from scfl_green.bounds import Count, Weight
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
        "end": Any,  # like budget and prune, described by its target
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


def check_plain(config: dict[str, Any]) -> None:
    """The same for the settings that no signature describes, and for combinations of settings: at once, since nothing
    is imported."""
    if config["privacy"] and find_spec("opacus") is None:
        raise InputError(f"privacy=dp_sgd needs Opacus: pip install {EXTRA}")
    _report(_plain_problems(config))
    for message in _conflicts(config):
        raise InputError(message)


def check_values(config: dict[str, Any]) -> None:
    """The same for all settings that can be checked without torch."""
    check_plain(config)
    _report(_signed_problems(config))


def _report(found: Iterable[Problem]) -> None:
    """Raises InputError naming all the problems, if any."""
    problems: dict[str, list[str]] = {}
    for setting, message in found:
        problems.setdefault(setting, []).append(message)
    if problems:
        raise InputError("; ".join(f"{setting}: {', or '.join(messages)}" for setting, messages in problems.items()))


def _plain_problems(config: dict[str, Any]) -> Iterator[Problem]:
    for group, known in GENERAL.items():
        yield from _group_problems(group, config, known)
    for key in config:
        if key not in GENERAL[""] and (near := get_close_matches(key, GENERAL[""], 1, cutoff=0.75)):
            yield unknown(key, config[key], dict.fromkeys(near))


def _signed_problems(config: dict[str, Any]) -> Iterator[Problem]:
    """Of groups without a ``_target_`` whose settings signatures describe, and of those whose targets need no torch."""
    from scfl_green.data.reading.cells import Reading  # pandas
    from scfl_green.energy.intensity import Intensity
    from scfl_green.energy.meter import EnergyMeter  # CodeCarbon

    for group, signatures in {"data": (Reading,), "carbon": (EnergyMeter, Intensity)}.items():
        described = {k: v for one in signatures for k, v in parameters_of(one).annotations.items()}
        yield from _group_problems(group, config, described | GENERAL[group], closed=True)
    yield from target_problems({group: config[group] for group in LIGHT})


def _of_lightning(config: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config["trainer"].items() if key not in GENERAL["trainer"]}


def _group_problems(
    group: str, config: dict[str, Any], known: dict[str, Any], closed: bool = False
) -> Iterator[Problem]:
    """Wrong values in a group, and unknown names, if it is ``closed``: if ``known`` are all that there are."""
    if group == "trainer":
        known, closed = known | dict.fromkeys(LIGHTNINGS, Any), True
    for name, value in (config[group] if group else config).items():
        key = f"{group}.{name}" if group else name
        if name in known:
            yield from value_problems(key, known[name], value)
        elif closed and not name.startswith("_"):
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
    if config["end"] and config["privacy"]:
        yield "privacy=dp_sgd needs end=last: which weights are best, by validation cells, would tell of these cells"
