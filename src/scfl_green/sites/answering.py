"""How a site's process answers a message: measured, written down, and with the energy that it took."""

import hashlib
import json
import logging
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any

from flwr.app import ConfigRecord, Context, Message, RecordDict

from scfl_green.energy import ledger as of
from scfl_green.energy.ledger import BETWEEN, Entry, Ledger
from scfl_green.errors import InputError
from scfl_green.federated.apps import client_app
from scfl_green.federated.grid import work_of
from scfl_green.federated.messages import failure, packed
from scfl_green.federated.secure import KEYS
from scfl_green.sites.border import MODEL
from scfl_green.sites.hospital import Hospital
from scfl_green.sites.limits import RefusedError

LOG = logging.getLogger(__name__)
AUDIT = "audit.jsonl"
# In every reply: what the site has used since its last one, as rows of a ledger.
USED = "used"
# That a site can spend energy in.
PHASES = {
    of.PREPARE, of.WARM_UP, of.FIT, of.VALIDATE, of.TEST, of.OTHER, of.CALIBRATE, of.MESSAGES, of.TRACKING, of.WAITING,
    BETWEEN,
}  # fmt: skip
MEASURED = ("seconds", "cpu_seconds", "energy_cpu_kwh", "energy_gpu_kwh", "energy_ram_kwh", "emissions_kg")
MOST_ROUNDS = 1_000_000
TOTALS = ("seconds", "energy_kwh", "emissions_kg")
# Of any number; of a site's power; and of carbon intensity.
MOST, MOST_KW, MOST_KG_PER_KWH = 1e30, 1e3, 10.0


class Answering:
    """Answers messages from a hospital's cells. Every message and reply is a line of ``audit.jsonl`` in its folder."""

    def __init__(self, hospital: Hospital) -> None:
        self.hospital = hospital
        self.app = client_app(lambda _: hospital, (MODEL, KEYS))
        self.context = Context(0, 0, {}, RecordDict(), {})
        self.untold = Ledger()

    def __call__(self, message: Message, size: int) -> Message:
        kind, asked = message.metadata.message_type, hashlib.sha256(packed(message)).hexdigest()
        self._write_down(message, {"direction": "in", "bytes": size, "sha256": asked})
        self._between()
        try:
            with self.hospital.meter.phase(*work_of(message, self.hospital.name)):
                reply, outcome = self.app(message, self.context), "answered"
        except (RefusedError, InputError) as error:
            LOG.warning("refused: %s: %s", kind, error)
            reply, outcome = failure(message, error), f"refused: {error}"
        except Exception as error:
            LOG.exception("failed: %s", kind)
            reply, outcome = failure(message, error), f"failed: {type(error).__name__}"
        self._during()
        if reply.has_content():
            reply.content[USED] = ConfigRecord({"rows": json.dumps(self.untold.rows())})
            self.untold = Ledger()
        wire = packed(reply)
        told = {"bytes": len(wire), "sha256": hashlib.sha256(wire).hexdigest(), "outcome": outcome}
        self._write_down(message, {"direction": "out"} | told)
        return reply

    def _between(self) -> None:
        """Note what this process has used while it waited for a message: training costs no more for it."""
        self.hospital.meter.read()
        waited = self.hospital.meter.take()
        entry = self.untold.entry(BETWEEN, 0, self.hospital.name)
        for used in waited.entries.values():
            for name in MEASURED:
                setattr(entry, name, getattr(entry, name) + getattr(used, name))

    def _during(self) -> None:
        self.hospital.meter.read()
        used = self.hospital.meter.take()
        self.hospital.spent.add(1e3 * sum(entry.emissions_kg for entry in used.entries.values()))
        self.untold.add(used)

    def _write_down(self, message: Message, what: dict[str, Any]) -> None:
        config = message.content.config_records.get("config", {})
        line = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "message": message.metadata.message_type,
            "round": int(config.get("server-round", 0)),
            "run": message.metadata.run_id,
        }
        with (self.hospital.folder / AUDIT).open("a") as log:
            log.write(json.dumps(line | what) + "\n")


def received(rows: Any, name: str) -> Ledger:
    """The ledger that a site has told; ValueError for anything but what a site can use."""
    ledger = Ledger()
    for row in rows:
        entry = Entry(**{**row, "client": name})
        numbers = [getattr(entry, field.name) for field in fields(Entry)[3:]]
        if entry.phase not in PHASES or not isinstance(entry.round, int) or not 0 <= entry.round < MOST_ROUNDS:
            raise ValueError("the use of another phase or round")
        if not all(isinstance(n, int | float) and 0 <= n < MOST for n in numbers):
            raise ValueError("a use that is no positive number")
        if entry.bytes_up or entry.bytes_down or entry.gb_kg_per_kwh or entry.bytes_spared:
            raise ValueError("bytes, which the server counts")
        ledger.add(Ledger({(entry.phase, entry.round, name): entry}))
    # Of all rows together, since RAM draws in one phase what it was waited for in another.
    seconds, kwh, kg = (sum(getattr(e, name) for e in ledger.entries.values()) for name in TOTALS)
    if kwh > MOST_KW * seconds / 3600 or kg > MOST_KG_PER_KWH * kwh:
        raise ValueError("more energy or emissions than any site has in this time")
    return ledger
