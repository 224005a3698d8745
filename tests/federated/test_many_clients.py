"""A thousand clients of twenty cells, of which each round samples some."""

import resource
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from flwr.serverapp.strategy import FedAvg

from conftest import compose_config
from jobs import in_child, make_job, split_of
from scfl_green.data.clients import iid
from scfl_green.data.reading.cells import Cells
from scfl_green.energy.meter import EnergyMeter
from scfl_green.errors import InputError
from scfl_green.federated.federation import Federation
from scfl_green.runs.run import run
from scfl_green.training.ending import BestEnd

ALL = {"min_available_nodes": 1}
N, OF_EACH, SAMPLED = 1000, 20, 15


def many(few: Cells) -> Cells:
    rows, genes = np.resize(np.arange(len(few)), N * OF_EACH), slice(400)
    small = replace(few, counts=few.counts[:][:, genes], genes=few.genes[genes], symbols=few.symbols[genes])
    return replace(small, **{name: getattr(small, name)[rows] for name in ("counts", "labels", "clients", "donors")})


def megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def test_a_thousand_clients_take_the_memory_of_a_few(few: Cells) -> None:
    def train() -> None:
        meter = EnergyMeter("DEU")
        split = partial(iid, test="cells", test_share=0.1, validation=0.1, newcomers=0, seed=1)
        cells = many(few)
        job = make_job(cells, meter, split=split(cells, clients=N))
        before = megabytes()
        federation = Federation(FedAvg(**ALL), rounds=3, local_epochs=1, clients_per_round=SAMPLED)
        ended = federation.train(job, [*job.split.clients.values()])
        assert ended.record["clients_by_round"] == [SAMPLED] * 3
        trained = {e.client for e in meter.entries.values() if e.phase == "fit" and e.cells}
        assert SAMPLED < len(trained) <= 3 * SAMPLED
        # Weights of a thousand clients would be 90 MB.
        assert megabytes() - before < 40
        meter.close()

    assert in_child(train) == 0


def test_the_same_seed_samples_the_same_clients(tmp_path: Path) -> None:
    ours = ["split=iid", "split.clients=8", "federation.clients_per_round=2", "federation.rounds=2", "end=last"]
    quick = ["federation.local_epochs=1", "data.n_genes=50", "logger=none", "federation.min_cells=0"]
    records = [run(compose_config(tmp_path / name, *ours, *quick)) for name in "ab"]
    assert records[0]["clients_by_round"] == [2, 2]
    assert records[0]["accuracy"] == records[1]["accuracy"]
    weights = [(tmp_path / name / "run/weights.safetensors").read_bytes() for name in "ab"]
    assert weights[0] == weights[1]


@pytest.mark.parametrize(("sampled", "message"), [(9, "there are 4 clients"), (2, "end=last")])
def test_samples_that_cannot_be_or_do_not_compare_are_refused(
    few: Cells, meter: EnergyMeter, sampled: int, message: str
) -> None:
    job = make_job(few, meter, split=split_of(few), hooks={"end": BestEnd()})
    with pytest.raises(InputError, match=message):
        Federation(FedAvg(**ALL), 1, 1, clients_per_round=sampled).train(job, [*job.split.clients.values()])
