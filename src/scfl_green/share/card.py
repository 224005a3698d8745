"""The model card: metadata as the Hugging Face Hub reads them, and a page of text.

The page is ``card.md``, a Jinja template. Metadata follow https://huggingface.co/docs/hub/model-cards, which allows for
other keys, such as our ``tissue``.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import jinja2
import yaml  # type: ignore[import-untyped]

from scfl_green.errors import InputError

LIBRARY = "scfl-green"
TASK = "tabular-classification"
# The Hub's kind of each score, and its name.
METRICS = {"accuracy": ("accuracy", "accuracy"), "weighted_f1": ("f1", "weighted F1"), "macro_f1": ("f1", "macro F1")}
# What Ensembl's gene ids begin with.
SPECIES = {"ENSG": "Homo sapiens", "ENSMUSG": "Mus musculus"}
TRAINING = {"finetune": "fine-tuning"}
PLAIN = re.compile(r"[^\x00-\x1f\x7f]{1,100}")


@dataclass(frozen=True)
class Terms:
    """What only the user knows of a model: its licence (an SPDX identifier), the tissue and species of its cells, and
    keys of texts in its settings that may leave."""

    licence: str = "unknown"
    tissue: str | None = None
    species: str | None = None
    allowed: Sequence[str] = ()

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.+-]{0,39}", self.licence):
            raise InputError(f"--licence {ascii(self.licence)[:60]}: an SPDX identifier is expected, such as MIT")
        for option, text in (("tissue", self.tissue), ("species", self.species)):
            if text is not None and not PLAIN.fullmatch(text):
                raise InputError(f"--{option} {ascii(text)[:60]}: a line of text is expected")


def metadata(name: str, about: dict[str, Any], record: dict[str, Any], terms: Terms) -> dict[str, Any]:
    """The metadata of a model: of its public ``model.json`` and record, and the user's terms; nothing is None."""
    found = {
        "license": terms.licence.lower(),
        "library_name": LIBRARY,
        "pipeline_tag": TASK,
        "tags": ["single-cell", "cell-type-annotation", *(["federated-learning"] if record.get("rounds") else [])],
        "tissue": terms.tissue,
        "species": terms.species or species(about["genes"]["genes"]),
        "cell_types": about["cell_types"],
        "weights_sha256": about["weights_sha256"],
        "co2_eq_emissions": _emissions(record),
        "model-index": [{"name": name, "results": [_results(record)]}],
    }
    return {key: value for key, value in found.items() if value is not None}


def species(genes: Iterable[str]) -> str | None:
    """The species that all genes' Ensembl ids name; None if they are symbols or of another species."""
    found = {re.split(r"\d", gene)[0] for gene in genes}
    return SPECIES.get(found.pop()) if len(found) == 1 else None


def _emissions(record: dict[str, Any]) -> dict[str, Any]:
    """In grams, as the Hub counts them: training and the transfer of weights."""
    return {
        "emissions": 1e3 * (record["emissions_kg"] + record["transfer_emissions_kg"]),
        "source": f"CodeCarbon {record['versions'].get('codecarbon', '')} ({record['energy_mode']}), and bytes sent",
        "training_type": TRAINING.get(record["regime"], "pre-training"),
        "geographical_location": record["country"],
        "hardware_used": f"{record['device']}, {record['threads']} thread{'s' * (record['threads'] != 1)}",
    }


def _results(record: dict[str, Any]) -> dict[str, Any]:
    metrics = [{"type": kind, "name": name, "value": record[key]} for key, (kind, name) in METRICS.items()]
    cells = {"type": "single-cell", "name": f"{record['cells_test']} held-out cells"}
    return {"task": {"type": TASK, "name": "cell type annotation"}, "dataset": cells, "metrics": metrics}


def card(name: str, of_card: dict[str, Any], about: dict[str, Any], record: dict[str, Any]) -> str:
    """``README.md``: ``of_card`` (``metadata``) as YAML, then text."""
    front = yaml.safe_dump(of_card, sort_keys=False, allow_unicode=True, width=120)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("scfl_green", "share"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
        finalize=_cell,
    )
    framework = about["model"]["_target_"].rpartition(".")[2]
    page = environment.get_template("card.md").render(
        name=name, framework=framework, card=of_card, about=about, record=record, metrics=METRICS
    )
    return f"---\n{front}---\n\n{page}"


def _cell(value: object) -> str:
    """A number to three digits, or text that ends no cell of a table and begins no tag of HTML."""
    if isinstance(value, float):
        return f"{value:.3f}" if 0.1 <= value <= 1 else f"{value:.3g}"
    if isinstance(value, int):
        return f"{value:,}"
    return "–" if value is None else " ".join(str(value).replace("|", "\\|").replace("<", "&lt;").split())
