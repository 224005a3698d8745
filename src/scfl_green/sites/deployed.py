"""A federation of other machines, as the run sees it: names, numbers and messages, never a matrix."""

import logging
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
from omegaconf import DictConfig
from scipy import sparse

from scfl_green.bounds import Positive
from scfl_green.data.agreement import Agreement, Common
from scfl_green.data.dataset import Dataset, Recipe
from scfl_green.data.features.asked import Summed, one_by_one
from scfl_green.data.features.datamodule import Features
from scfl_green.data.held_out import check_parts
from scfl_green.data.partition import Split
from scfl_green.data.questions import Survey
from scfl_green.energy.meter import EnergyMeter
from scfl_green.errors import InputError, listed
from scfl_green.federated.about import about_weights
from scfl_green.federated.federation import check_sizes
from scfl_green.federated.grid import SitesGrid, Trained
from scfl_green.federated.network import before_training
from scfl_green.federated.secure import Masks, Put
from scfl_green.federated.site import Site
from scfl_green.models.prune import Weights
from scfl_green.runs.agreed import recipe
from scfl_green.sites import received_model
from scfl_green.sites.border import MODEL
from scfl_green.sites.composed import check_settings, left_out, split_of, table_of, tested_sites
from scfl_green.sites.link import connected
from scfl_green.sites.remote import RemoteGrid
from scfl_green.sites.server import ServerSettings
from scfl_green.training.job import Job

__all__ = ["Deployed"]

LOG = logging.getLogger(__name__)
SECONDS_BETWEEN_LOOKS = 0.5
# In a sum that no site can take its own part from, to know another's.
LEAST_SITES = 3


class Deployed:
    """The sites that have joined the server in the folder ``server`` (all of them, or those of these ``names``), each
    a process on its own machine. They must be connected within ``wait_seconds``. With ``masked``, sums over
    cells are read over all sites alone, where at least three train. A context: a run of the server."""

    def __init__(
        self, server: str, names: Sequence[str] | None = None, wait_seconds: Positive = 60, masked: bool = True
    ) -> None:
        self.server, self.names, self.wait_seconds = ServerSettings.read(Path(server)), names, wait_seconds
        self.masked, self.masks = masked, cast("Masks | None", None)
        self.nodes: dict[str, int] = {}
        self._open = ExitStack()

    def __enter__(self) -> Self:
        self.link = self._open.enter_context(connected(self.server))
        return self

    def __exit__(self, *error: Any) -> None:
        self._open.__exit__(*error)

    def dataset(self, cfg: DictConfig, meter: EnergyMeter) -> Dataset:
        """Agree with all sites, and have them prepare their cells; InputError if they cannot train together."""
        check_settings(cfg)
        self.nodes = self._gathered()
        names, tested = sorted(self.nodes), tested_sites(cfg, self.nodes)
        federation = cfg.federation
        silent = partial(left_out, federation.min_clients, len(names))
        ask = partial(before_training, self, meter=meter, timeout_seconds=federation.timeout_seconds, silent=silent)
        common = Common(cfg.data.min_cells_per_type, cfg.data.min_gene_overlap, tuple(cfg.data.drop_types))
        how, put = replace(recipe(cfg, ask), common=common), ask(dict.fromkeys(names))
        survey = Survey(put, names)
        agreement = how.agree(survey).checked()
        split = split_of(agreement, tested)
        check_sizes(split.clients.values(), cfg.federation.min_cells)
        known = [part for name, part in split.clients.items() if {*agreement.told[name]} & {*agreement.types}]
        check_parts(known, needs_test=not tested, needs_validation=cfg.split.validation > 0)
        how = replace(how, summed=self._summed(put, agreement, split, how)) if self.masked else how
        preparation = how.learn(survey, agreement, [*split.clients])
        nothing = sparse.csr_matrix((0, len(preparation.genes)), dtype=np.float32)
        return Dataset(
            features=Features(nothing, preparation.floor, np.empty(0, np.int64)),
            split=split,
            preparation=preparation,
            types=agreement.types,
            folder=None,
            notes=agreement.notes,
            n_genes_read=len(agreement.genes),
            type_ids=agreement.type_ids,
            told=table_of(agreement, split),
        )

    def _summed(self, put: Put, agreement: Agreement, split: Split, how: Recipe) -> Summed:
        """How sums by gene are added up: under masks, if there are enough sites that train."""
        if len(split.clients) < LEAST_SITES or not how.preprocess:
            LOG.info("sums are not masked: that needs %d sites that train, and counts", LEAST_SITES)
            return one_by_one
        n_cells = sum(len(part.train) for part in split.clients.values())
        masks = self.masks = Masks(n_cells)
        masks.begin(put, split.clients)
        return lambda sums, question, n_genes: masks.genes(put, question, len(agreement.types), n_genes)

    def grid(
        self, sites: Sequence[Site], meter: EnergyMeter, *, n_workers: int = 1, trained: Trained | None = None
    ) -> SitesGrid:
        """The grid of these sites; they all train at once, whatever ``n_workers``."""
        agreed = next((site.job.agreed for site in sites if site.job), "")
        return RemoteGrid(self.link, {site.name: self.nodes[site.name] for site in sites}, meter, trained, agreed)

    def finish(self, job: Job, weights: Weights, folder: Path) -> None:
        """Give every site the model in a run's folder."""
        parts = [*job.split.clients.values(), *job.split.tested.values()]
        with about_weights(job, weights, parts) as ask:
            kept = {name for name, answer in ask(MODEL, received_model.question(folder)) if "kept" in answer}
        if missing := [part.name for part in parts if part.name not in kept]:
            LOG.warning("sites that have not kept the model: %s; see their logs", listed(missing))

    def _gathered(self) -> dict[str, int]:
        """The node of each site, once all are connected; InputError if some are not in time."""
        end = time.monotonic() + self.wait_seconds
        while True:
            nodes = {node.name: node for node in self.link.registered()}
            wanted = sorted(nodes) if self.names is None else [*self.names]
            missing = [name for name in wanted if name not in nodes or nodes[name].status != "online"]
            if not missing and wanted:
                return {name: nodes[name].node_id for name in wanted}
            if time.monotonic() > end:
                away = listed(missing) if missing else "all, since none has joined"
                raise InputError(
                    f"sites that are not connected after {self.wait_seconds:g} s: {away}; "
                    "start them there (scfl-green site start), or leave them out with sites.names=[...]"
                )
            time.sleep(SECONDS_BETWEEN_LOOKS)
