"""A hospital's site: its own file, its own limits, and what it keeps between messages and restarts."""

import json
import logging
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ArrayRecord
from hydra.utils import instantiate
from omegaconf import OmegaConf

from scfl_green.data.agreement import Agreed, Agreement
from scfl_green.data.dataset import Dataset, Recipe, load, prepare
from scfl_green.data.features.prepare import Preparation, all_genes
from scfl_green.data.held_out import one_site
from scfl_green.data.partition import Part, Split
from scfl_green.data.questions import PREPARE, SUMS, TELL
from scfl_green.data.reading.cells import Cells
from scfl_green.data.reading.file import File
from scfl_green.data.site import SiteCells
from scfl_green.data.wire import Arrays, unpacked_text
from scfl_green.energy.ledger import CALIBRATE
from scfl_green.energy.meter import EnergyMeter
from scfl_green.federated.secure import KEYS
from scfl_green.federated.site import DisagreementError, Site
from scfl_green.files import write_atomically
from scfl_green.models.prune import Weights
from scfl_green.runs.assemble import make_job
from scfl_green.runs.process import set_up_process
from scfl_green.sites import limits
from scfl_green.sites.border import ASKED, MODEL
from scfl_green.sites.limits import RefusedError
from scfl_green.sites.received_model import keep
from scfl_green.sites.secret import Numbers, Secret, calibration_numbers, gene_numbers
from scfl_green.sites.settings import SiteSettings
from scfl_green.sites.spent import Spent

LOG = logging.getLogger(__name__)
# In the site's folder: the settings of the training that was prepared last, and its features.
RUN, PREPARED = "run.json", "prepared"
HELD_OUT = ("test", "test_share", "validation", "newcomers")


class Hospital(Site):
    """A site whose cells are those of a file, and whose answers keep to its limits; it goes on with the training that
    was prepared last when its process is started again."""

    def __init__(self, settings: SiteSettings, folder: Path, meter: EnergyMeter) -> None:
        super().__init__(settings.name)
        self.settings, self.folder, self.meter, self.spent = settings, folder, meter, Spent(folder)
        self.run: dict[str, Any] = {}
        self.secret = Secret(settings.name, only_masked=settings.limits.only_masked)
        for left in folder.glob(f".{PREPARED}.*"):  # by a process that was killed: as confidential as the cells
            shutil.rmtree(left, ignore_errors=True)

    def check(self, agreed: str) -> None:
        if self.job is None and (self.folder / PREPARED).is_dir():
            self.run = json.loads((self.folder / RUN).read_text())
            limits.check(self.settings.limits, self.run)
            self._take_up(load(self.folder / PREPARED))
        super().check(agreed)

    def train(self, weights: Weights, **options: Any) -> tuple[Weights, dict[str, float]]:
        federation = self.run["federation"]
        for name, most in (("epochs", federation["local_epochs"]), ("round_number", federation["rounds"])):
            if options[name] > most:
                raise RefusedError(f"{name} {options[name]}, where {most} were agreed")
        limits.check_emissions(self.settings.limits, self.spent.emissions_g)
        return super().train(weights, **options)

    def answer(self, kind: str, question: Arrays, weights: Weights | None) -> Arrays:
        if kind not in ASKED:
            raise RefusedError(f"{kind}: a question that no hospital answers")
        if kind == MODEL:
            return keep(self.folder, question, weights)
        plain = partial(super().answer, kind, weights=weights)
        own = {
            TELL: self._tell,
            PREPARE: self._prepare,
            KEYS: self.secret.key_for,
            SUMS: lambda asked: self.secret.answer(asked, plain, self._gene_numbers),
            CALIBRATE: lambda asked: self.secret.answer(asked, plain, lambda q: calibration_numbers(q, plain(q))),
        }
        return own.get(kind, plain)(question)

    def _gene_numbers(self, question: Arrays) -> Numbers:
        assert isinstance(self.cells, SiteCells)
        return gene_numbers(question, self.cells.gene_sums(question))

    def _tell(self, question: Arrays) -> Arrays:
        self.run = unpacked_text(question["settings"])
        limits.check(self.settings.limits, self.run)
        limits.check_emissions(self.settings.limits, self.spent.emissions_g)
        limits.check_epsilon(self.settings.limits, self.run["privacy"], self.spent.epsilon)
        preprocess = self.run["data"]["preprocess"] != "none"
        file = self.settings.file(preprocess)

        def contribute(agreed: Agreed) -> tuple[Cells, Part]:
            return self._contribute(file, agreed, preprocess)

        self.cells = SiteCells(file.told(), contribute, preprocess, self.settings.limits.fewest_told)
        return self.cells.tell(question)

    def _contribute(self, file: File, agreed: Agreed, preprocess: bool) -> tuple[Cells, Part]:
        """The cells as agreed, and the site's own split of them."""
        unnamed = np.full(agreed.n_genes, "", dtype=object)
        places = {self.name: agreed.positions}
        renamed, broad = agreed.renamed, agreed.broad
        agreement = Agreement(agreed.types, agreed.type_ids, unnamed, unnamed, places, (), renamed, broad)
        cells = Cells.of([file], agreement, self.settings.reading(preprocess))
        split = self.run["split"]
        part = one_site(cells.labels, self.name, split["seed"], {name: split[name] for name in HELD_OUT})  # type: ignore[arg-type]
        if 0 < len(part.train) < self.settings.limits.min_cells:
            raise RefusedError(
                f"{len(part.train)} training cells, where limits.min_cells={self.settings.limits.min_cells}"
            )
        return cells, part

    def _prepare(self, question: Arrays) -> Arrays:
        """Take up the preparation: store the features, and make ready for training."""
        if not isinstance(self.cells, SiteCells) or self.cells.agreed is None:
            raise DisagreementError("a preparation before all agreed")
        cells, part = self.cells.agreed
        preparation, genes = Preparation.unpacked(question, len(cells.genes))
        cells = replace(cells, genes=genes, symbols=genes)
        shutil.rmtree(self.folder / PREPARED, ignore_errors=True)
        write_atomically(self.folder / RUN, json.dumps(self.run).encode())
        split = Split({self.name: part}, {})
        self._take_up(prepare(cells, split, self.folder / PREPARED, Recipe(all_genes), preparation))
        if self.run["privacy"]:
            self.spent.begin(self.run["privacy"]["epsilon"])
        self.cells = None
        return {}

    def _take_up(self, dataset: Dataset) -> None:
        cfg = OmegaConf.create(self.run)
        set_up_process(cfg)
        job = make_job(cfg, dataset, None, self.meter)
        if (n := sum(p.numel() for p in job.model.parameters())) > (most := self.settings.limits.most_parameters):
            raise RefusedError(f"a network of {n} parameters, where limits.most_parameters={most}")
        self.part = dataset.split.clients[self.name]
        if len(self.part.train):
            job.warm_up()
        self.codec, self.untrained = instantiate(cfg.federation.codec), ArrayRecord(job.untrained)
        self.job = job
