"""A sweep's results -> tables, figures and one page: scfl-green report FOLDER [--country FRA]

Also at the end of every sweep. The page holds all it shows; nothing is fetched when it is opened.
"""

import io
import shlex
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from omegaconf import OmegaConf

from scfl_green.analysis import figures, tables
from scfl_green.analysis.collect import collect
from scfl_green.energy.meter import carbon_intensity
from scfl_green.errors import InputError
from scfl_green.files import write_atomically
from scfl_green.security.confidential import shown

STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;color:#222}
table{border-collapse:collapse;font-size:13px;margin:1rem 0;display:block;overflow-x:auto}
td,th{border-bottom:1px solid #ddd;padding:.25rem .6rem;text-align:right}th{background:#f4f4f4}
figure{margin:1rem 0}svg{max-width:100%;height:auto}code{background:#f4f4f4;padding:.1rem .3rem}
@media print{figure,table{break-inside:avoid}}"""


def report(folder: Path, country: str | None = None) -> Path:
    """Write ``summary.csv``, ``figures/*.svg`` and ``*.png``, and ``report.html``; gives the path of the page.

    ``country`` tells what the same runs would have emitted there. Raises InputError where there are no runs.
    """
    if collect(folder).empty:
        raise InputError(f"{folder}: no finished runs; name the folder of a sweep, such as logs/sweeps/grid_pancreas")
    results = tables.read_results(folder, carbon_intensity(country) if country else None)
    summary = tables.summarise(results)
    write_atomically(folder / "summary.csv", summary.to_csv(index=False).encode())
    (folder / "figures").mkdir(exist_ok=True)
    drawn = {name: _save(figure, folder / "figures" / name) for name, figure in _figures(folder, results).items()}
    body = [
        _head(folder, results, country),
        *(f"<h2>{title}</h2>{_table(table)}" for title, table in _tables(folder, results, summary)),
    ]
    body += ["<h2>Figures</h2>", *(f"<figure>{svg}</figure>" for svg in drawn.values()), _method(folder, results)]
    page = (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(folder.name)}</title><style>{STYLE}</style>"
    )
    write_atomically(folder / "report.html", (page + "".join(body)).encode())
    return folder / "report.html"


def _tables(folder: Path, results: pd.DataFrame, summary: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    trained = results[results["regime"] != "finetune"]
    found = [("All methods", summary.loc[:, ~summary.columns.str.contains("_low|_high")])]
    kinds = {"opt": "EAPS of the opts of every framework, against baseline", "model": "EAPS of the frameworks"}
    for over, title in kinds.items():
        if trained[over].nunique() > 1:
            found.append((title, tables.compare(trained, over, "baseline" if over == "opt" else None)))
    if trained["opt"].nunique() > 1 and trained["model"].nunique() > 1:
        found.append(
            ("Winners by EAPS of training alone, beside the study's", tables.winners_beside_published(trained))
        )
    found.append(("The published values beside ours", tables.beside_published(trained)))
    if "scratch_accuracy" in results:
        tuned = results[results["regime"] == "finetune"]
        columns = ["accuracy", "scratch_accuracy", "emissions_kg", *results.filter(like="_to_target").columns]
        columns += ["pretraining_emissions_kg", "newcomers_to_pay_back"]
        found.append(("Fine-tuning and training from scratch", tuned.groupby("model")[columns].mean().reset_index()))
    found.append(("Training cells told by their loss (AUC .5: nothing leaks)", tables.leakage(folder, results)))
    return [(title, table) for title, table in found if not table.empty]


def _figures(folder: Path, results: pd.DataFrame) -> dict[str, Figure]:
    drawn = {}
    for data, runs in results.groupby("data"):
        trained = runs[runs["regime"] != "finetune"]
        plain = trained[trained["opt"] == "baseline"]
        if plain["regime"].nunique() > 1:
            drawn[f"{data}_regimes"] = figures.bars(plain, "regime", f"{data}: central and federated training")
        for regime, of_regime in trained.groupby("regime"):
            batches = of_regime[of_regime["opt"].isin(["baseline", "small_batch"])]
            if batches["opt"].nunique() > 1:
                sizes = batches.assign(opt="batch of " + batches["batch_size"].astype(str))
                drawn[f"{data}_{regime}_small_batch"] = figures.bars(sizes, "opt", f"{data}: small batch, {regime}")
            if of_regime["opt"].nunique() > 1:
                measures = ("accuracy", "weighted_f1", "emissions_g", "eaps")
                drawn[f"{data}_{regime}_opts"] = figures.bars(of_regime, "opt", f"{data}: opts, {regime}", measures)
        if len(trained.groupby(tables.METHOD)) > 1:
            drawn[f"{data}_front"] = figures.front(trained, f"{data}: what accuracy costs")
        for model, one in runs[runs["regime"] == "federated"].groupby("model"):
            where = figures.where_energy_went(_ledger(folder, one.iloc[0]), f"{data}, {model}: where the energy went")
            drawn[f"{data}_{model}_energy"] = where
        curves = _curves(folder, runs)
        if not curves.empty:
            drawn[f"{data}_epochs"] = figures.epochs(curves, f"{data}: accuracy by epoch")
            last = curves.groupby(["model", "arm", "seed"], sort=False)[["emissions_kg"]].max().reset_index()
            last["emissions_g"] = last["emissions_kg"] * 1e3
            name = f"{data}: emissions with and without fine-tuning"
            drawn[f"{data}_finetune_emissions"] = figures.bars(last, "arm", name, ("emissions_g",))
    return drawn


def _ledger(folder: Path, run: pd.Series) -> pd.DataFrame:
    """Wh by client and round of a federated run: of training, and of the network, for validation too."""
    rows = pd.read_csv(folder / run["folder"] / "energy.csv", keep_default_na=False)
    rows = rows[rows["phase"].isin(["fit", "validate"])]
    share = (rows["bytes_up"] + rows["bytes_down"]) / max(run["bytes_up"] + run["bytes_down"], 1)
    trains = rows["phase"] == "fit"
    by_part = {part: rows[f"energy_{part.lower()}_kwh"] * trains * 1e3 for part in ("CPU", "GPU", "RAM")}
    return rows.assign(**{f"training: {part}": wh for part, wh in by_part.items()}, network=share * run["transfer_wh"])


def _curves(folder: Path, runs: pd.DataFrame) -> pd.DataFrame:
    """The epochs of both arms of all fine-tuning runs."""
    read = []
    for _, run in runs[runs["regime"] == "finetune"].iterrows():
        rows = pd.read_csv(folder / run["folder"] / "finetune.csv").assign(model=run["model"], seed=run["seed"])
        rows["emissions_kg"] *= run["emissions_g"] / run["energy_wh"] / run["carbon_intensity_kg_per_kwh"]
        read.append(rows)
    return pd.concat(read, ignore_index=True) if read else pd.DataFrame()


def _save(figure: Figure, path: Path) -> str:
    """As SVG and PNG; gives the SVG element."""
    figure.savefig(path.with_suffix(".png"), dpi=150)
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    write_atomically(path.with_suffix(".svg"), text.getvalue().encode())
    return text.getvalue()[text.getvalue().index("<svg") :]


def _table(table: pd.DataFrame) -> str:
    return table.to_html(index=False, border=0, na_rep="–", float_format=lambda x: f"{x:.4g}")


def _head(folder: Path, results: pd.DataFrame, country: str | None) -> str:
    data = ", ".join(sorted(results["data"].unique()))
    where = country or ", ".join(sorted(results["country"].unique()))
    short = int(results["too_short"].sum())
    warned = f" {short} of them trained for too short a time for their energy to mean much." if short else ""
    return (
        f"<h1>{escape(folder.name)}</h1><p>{len(results)} runs on {escape(data)}, "
        f"seeds {', '.join(map(str, sorted(results['seed'].unique())))}; emissions as in {escape(where)}.{warned} "
        "EAPS is weighted F1 per kg CO2e of training and transfer. A winner is named only where its interval against "
        "every other excludes 1; else all that tie are.</p>"
    )


def _method(folder: Path, results: pd.DataFrame) -> str:
    modes = "; ".join(sorted(results["energy_mode"].unique()))
    first = results.iloc[0]
    # Runs of an earlier version may lie in the same folder, and lack a field.
    load = results.reindex(columns=["load_at_start"])["load_at_start"].dropna()
    loads = f"{load.min():.0%} to {load.max():.0%}" if len(load) else "not known"
    return (
        f"<h2>How it was measured</h2><p>{escape(modes)}. Threads: {first['threads']}, cores: {first['cores']}, "
        f"device: {escape(str(first['device']))} ({escape(str(first['processor']))}); load at the start: {loads}. "
        f"Versions: {escape(first['versions'])}. Network: see <code>carbon.network_kwh_per_gb</code>. "
        f"Command: <code>{escape(_command(folder))}</code></p>"
    )


def _command(folder: Path) -> str:
    """What started the sweep, as Hydra noted it."""
    try:
        noted: Any = OmegaConf.to_container(OmegaConf.load(folder / "multirun.yaml"), resolve=False)
        overrides = noted["hydra"]["overrides"]["task"]
    except (OSError, KeyError, TypeError):
        return "not known"
    given = "experiment=" in " ".join(overrides)
    task = [shlex.quote(shown(override)) for override in overrides]
    return " ".join(["python train.py", *([] if given else ["-m"]), *task])
