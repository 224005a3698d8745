"""What a server makes of names and numbers that its sites tell."""

import logging
from collections.abc import Mapping, Sequence

import pandas as pd
from omegaconf import DictConfig

from scfl_green.data.agreement import Agreement
from scfl_green.data.partition import Part, Split
from scfl_green.data.questions import PREPARE, TELL
from scfl_green.errors import InputError, listed
from scfl_green.federated.network import refuse

LOG = logging.getLogger(__name__)


def check_settings(cfg: DictConfig) -> None:
    """InputError for settings of a run that sites on other machines cannot follow."""
    problems = {
        "federation=oneshot: sites on other machines tell no products of genes; use another federation": (
            "strategy" not in cfg.federation
        ),
        "regime: data=sites needs regime=federated: the cells of other sites cannot be pooled": not cfg.regime.get(
            "federation"
        ),
        "weights: a federation of data=sites begins with untrained weights; fine-tune at a site, with its own file": (
            cfg.weights is not None
        ),
        "split: data=sites needs split=donor: every site splits its own cells": (
            cfg.split._target_ != "scfl_green.data.by_client"
        ),
        f"split.test={cfg.split.test} needs the donors or clients of all sites: use cells, or a list of sites": (
            cfg.split.test in ("donors", "client")
        ),
        "split.newcomers: leave sites out with sites.names=[...]": bool(cfg.split.newcomers),
        "federation.strategy.slack_hours waits on a simulated clock: set it to 0": bool(
            cfg.federation.get("strategy", {}).get("slack_hours")
        ),
    }
    for message, wrong in problems.items():
        if wrong:
            raise InputError(message)


def tested_sites(cfg: DictConfig, nodes: Mapping[str, int]) -> list[str]:
    """The sites that only test."""
    named = [] if isinstance(cfg.split.test, str) else sorted(map(str, cfg.split.test))
    if unknown := [name for name in named if name not in nodes]:
        raise InputError(f"split.test names {listed(unknown)}; the sites are {listed(sorted(nodes))}")
    return named


def left_out(least: int | None, of: int, kind: str, missing: Mapping[str, str]) -> None:
    """Let a federation that may lose sites do without those that do not take part, or cannot prepare."""
    if kind not in (TELL, PREPARE) or least is None or of - len(missing) < least:
        refuse(kind, missing)
    for name, reason in missing.items():
        LOG.warning("without %s, which was asked to %s: %s", name, kind, reason)


def split_of(agreement: Agreement, tested: Sequence[str]) -> Split:
    parts = {name: Part.counted(name, *cells) for name, cells in agreement.cells.items()}
    return Split(
        {name: part for name, part in parts.items() if name not in tested}, {}, {name: parts[name] for name in tested}
    )


def table_of(agreement: Agreement, split: Split) -> pd.DataFrame:
    """Cells by site and type, as the sites tell them: a number that is not told is missing."""
    rows = {
        (name, purpose): [agreement.told[name].get(of, 0) for of in agreement.types]
        for purpose, parts in (("client", split.clients), ("test", split.tested))
        for name in parts
    }
    table = pd.DataFrame.from_dict(rows, orient="index", columns=[*agreement.types], dtype=float)
    table.index = pd.MultiIndex.from_tuples(rows, names=["client", "kept for"])
    return table
