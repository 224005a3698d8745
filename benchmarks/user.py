"""What a user would write, run as a process of its own: python -m benchmarks.user CACHE local|ray ours|default ROUNDS

The default run (embedded pancreas, ACTINN): in this process or under Flower's Ray simulation, with our Job or with
Lightning's own loader and a default Trainer for each fit. Prints the seconds of the federation alone.
"""

import os
import sys
import time
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "FLWR_TELEMETRY_ENABLED": "0", "RAY_DISABLE_IMPORT_WARNING": "1"}

import pytorch_lightning as pl
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch.utils.data import DataLoader, TensorDataset

from benchmarks import setting
from scfl_green.data.dataset import Dataset
from scfl_green.energy.meter import EnergyMeter
from scfl_green.federated.apps import client_app
from scfl_green.federated.grid import LocalGrid
from scfl_green.models.base import CellClassifier
from scfl_green.runs.assemble import make_job
from scfl_green.runs.run import metered
from scfl_green.training.job import Job


class Application:
    """The two apps, made anew in every process from the prepared dataset: nothing but this object travels."""

    def __init__(self, folder: str, ours: bool, rounds: int) -> None:
        self.folder, self.ours, self.rounds = folder, ours, rounds

    def client(self) -> ClientApp:
        app = ClientApp()

        @app.train()
        def train(message: Message, context: Context) -> Message:
            return answer(self.folder, self.ours, message, context)

        @app.query()
        def query(message: Message, context: Context) -> Message:
            return answer(self.folder, self.ours, message, context)

        @app.evaluate()
        def evaluate(message: Message, context: Context) -> Message:
            return answer(self.folder, self.ours, message, context)

        return app

    def server(self) -> ServerApp:
        app = ServerApp()

        @app.main()
        def main(grid: Grid, context: Context) -> None:
            start, cfg = ArrayRecord(new_model(self.folder).state_dict()), configured()
            strategy = FedAvg(min_train_nodes=4, min_evaluate_nodes=4, min_available_nodes=4)
            config = ConfigRecord({"local-epochs": cfg.federation.local_epochs})
            began = time.perf_counter()
            strategy.start(grid, start, num_rounds=self.rounds, train_config=config)
            print(f"@ federation {time.perf_counter() - began:.4f}", flush=True)

        return app


@cache
def configured() -> DictConfig:
    setting.quiet()
    return setting.composed()


@cache
def dataset(folder: str) -> Dataset:
    return setting.embedded(Path(folder))


def new_model(folder: str) -> CellClassifier:
    cfg, data = configured(), dataset(folder)
    torch.manual_seed(cfg.seed)
    return instantiate(cfg.model, n_genes=data.features.n_genes, n_types=len(data.types), _convert_="all")


@cache
def job(folder: str) -> Job:
    cfg = configured()
    meter = EnergyMeter(cfg.carbon.country, cfg.carbon.cpu_watts, cfg.carbon.ram_watts)
    return make_job(cfg, dataset(folder), None, meter)


def answer(folder: str, ours: bool, message: Message, context: Context) -> Message:
    parts = list(dataset(folder).split.clients.values())
    if ours:
        return client_app(job(folder), parts)(message, context)
    part = parts[int(context.node_config["partition-id"])]
    model, batch_size = new_model(folder), configured().data.batch_size
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    with_trainer = {"accelerator": "cpu", "devices": 1, "enable_progress_bar": False, "default_root_dir": mkdtemp()}
    training = message.metadata.message_type == "train"
    rows = part.train if training else part.validation
    cells = TensorDataset(*dataset(folder).features.batch(rows))
    loader = DataLoader(cells, batch_size=batch_size, shuffle=training)
    if training:
        trainer = pl.Trainer(max_epochs=int(message.content["config"]["local-epochs"]), **with_trainer)
        trainer.fit(model, loader)
    else:
        trainer = pl.Trainer(**with_trainer)
        trainer.validate(model, loader, verbose=False)
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    content = {"metrics": MetricRecord({**metrics, "num-examples": len(rows)})}
    if training:
        content["arrays"] = ArrayRecord(model.state_dict())
    return Message(RecordDict(content), reply_to=message)


def whole_regime(folder: str, rounds: int) -> None:
    """Ours as ``train.py`` runs it: the meter, the checks and the files too."""
    setting.quiet()
    with setting.setting(dataset(folder), f"federation.rounds={rounds}") as ours:
        began = time.perf_counter()
        ours.run()
        print(f"@ federation {time.perf_counter() - began:.4f}", flush=True)


def main(folder: str, engine: str, trainer: str, rounds: int) -> None:
    application = Application(folder, trainer == "ours", rounds)
    if engine == "ray":
        from flwr.simulation import run_simulation

        one_core = {"client_resources": {"num_cpus": 1, "num_gpus": 0.0}}
        run_simulation(application.server(), application.client(), num_supernodes=4, backend_config=one_core)
    elif application.ours:
        whole_regime(folder, rounds)
    else:
        with metered(configured()) as meter:  # of LocalGrid, for the messages' bytes
            grid = LocalGrid(application.client(), list(dataset(folder).split.clients), meter)
            context = Context(run_id=0, node_id=0, node_config={}, state=RecordDict(), run_config={})
            application.server()(grid, context)


if __name__ == "__main__":
    from benchmarks import user  # by its name: what Ray pickles must be found in its workers

    folder, engine, trainer, rounds = sys.argv[1:]
    user.main(folder, engine, trainer, int(rounds))
