"""Hospitals in this process, behind a link that has no network: real messages to real answers."""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anndata as ad
import torch
from flwr.app import Message
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

from scfl_green.energy.meter import EnergyMeter
from scfl_green.federated.messages import packed, unpacked
from scfl_green.sites import deployed
from scfl_green.sites.answering import Answering
from scfl_green.sites.hospital import Hospital
from scfl_green.sites.settings import SiteSettings, checked

PANCREAS = Path(deployed.__file__).parents[1] / "data" / "packaged" / "pancreas.h5ad"


def studies(folder: Path) -> dict[str, Path]:
    """The four studies of the embedded dataset, each as a file of its own, by the first word of its name."""
    whole = ad.read_h5ad(PANCREAS)
    files = {}
    for study in sorted(whole.obs["Dataset"].unique()):
        path = files[study.split()[0].lower()] = folder / f"{study.split()[0].lower()}.h5ad"
        whole[whole.obs["Dataset"] == study].copy().write_h5ad(path)
    return files


class Loop(Grid):
    """A link to the hospitals of these settings: answers every message at once. ``altered`` may change a message, or
    answer it in a site's place."""

    def __init__(self, folder: Path, settings: Iterable[SiteSettings]) -> None:
        self.answering: dict[str, Answering] = {}
        self.altered: Callable[[str, Message], Message | None] = lambda name, message: None
        self.folder = folder
        for own in settings:
            self.start(own)

    def start(self, settings: SiteSettings) -> None:
        """Start a hospital's process, or start it again."""
        (place := self.folder / settings.name).mkdir(exist_ok=True, parents=True)
        meter = EnergyMeter(settings.country)
        self.answering[settings.name] = Answering(Hospital(settings, place, meter))

    def get_nodes(self) -> Iterable[Any]:
        return [SimpleNamespace(name=name, node_id=7000 - n, status="online") for n, name in enumerate(self.answering)]

    registered = get_nodes

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        names = {node.node_id: node.name for node in self.get_nodes()}
        # In another order than they were sent.
        for message in reversed([*messages]):
            name, wire = names[message.metadata.dst_node_id], packed(message)
            arrived = unpacked(wire)
            # As in a process of its own.
            with torch.random.fork_rng():
                reply = self.altered(name, arrived) or self.answering[name](arrived, len(wire))
            came = unpacked(packed(reply))
            came.metadata.__dict__["_src_node_id"] = message.metadata.dst_node_id
            yield came

    def close(self) -> None:
        for answering in self.answering.values():
            answering.hospital.meter.close()

    get_node_ids = push_messages = pull_messages = create_message = set_run = run = None


def settings_of(files: Mapping[str, Path], **changed: Any) -> list[SiteSettings]:
    return [checked({"name": name, "cells": path} | copy.deepcopy(changed), "test") for name, path in files.items()]


@contextmanager
def linked(monkeypatch: Any, loop: Loop) -> Iterator[Loop]:
    """Runs with data=sites reach the hospitals of ``loop``."""

    @contextmanager
    def connected(server: object) -> Iterator[Loop]:
        yield loop

    TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 0
    monkeypatch.setattr(deployed, "connected", connected)
    monkeypatch.setattr(deployed.ServerSettings, "read", lambda folder: None)
    try:
        yield loop
    finally:
        loop.close()
