"""What each framework costs, whole and made smaller: python -m benchmarks.sizes"""

import copy

import torch
from flwr.app import ArrayRecord, RecordDict
from flwr.common.serde import recorddict_to_proto
from hydra.utils import instantiate

from benchmarks.measure import ROOT
from benchmarks.setting import composed
from scfl_green.energy.flops import flops_per_cell
from scfl_green.models import prune
from scfl_green.models.base import CellClassifier

N_TYPES, BATCH = 9, 32
Sized = tuple[CellClassifier, int]


def build(model: str, overrides: list[str]) -> Sized:
    """A network, and the number of genes that it reads."""
    cfg = composed(f"model={model}", *overrides)
    return instantiate(cfg.model, n_genes=cfg.data.n_genes, n_types=N_TYPES, _convert_="all"), cfg.data.n_genes


def pruned(model: CellClassifier) -> CellClassifier:
    smaller = copy.deepcopy(model)
    weights = prune.pruned(model.state_dict(), model.hidden_units(), fraction=0.5)
    prune.resize(smaller, weights)
    smaller.load_state_dict(weights)
    return smaller


def variants(name: str) -> dict[str, Sized]:
    """The network whole and smaller; without hidden units it has neither a width nor anything to prune."""
    full, n_genes = build(name, [])
    found = {"full": (full, n_genes), "reduced": build(name, ["opt=reduce_complexity"])}
    if full.hidden_units():
        found |= {"width .5": build(name, ["model.width=0.5"]), "prune .5": (pruned(full), n_genes)}
    return found


def cost(model: CellClassifier, n_genes: int) -> tuple[int, int, float]:
    """Parameters, bytes of the weights in a message, FLOPs of training on one cell."""
    content = RecordDict({"arrays": ArrayRecord(model.state_dict())})
    x, y = torch.randn(BATCH, n_genes), torch.arange(BATCH) % N_TYPES
    parameters = sum(p.numel() for p in model.parameters())
    return parameters, recorddict_to_proto(content).ByteSize(), flops_per_cell(model, x, y)


def main() -> None:
    print(f"{N_TYPES} cell types; MB are sent a round and client: down, and back\n")
    print("| framework | | parameters | removed | MB | MFLOP a cell | removed |")
    print("|---|---|---|---|---|---|---|")
    # Those that opt=reduce_complexity has sizes for; the papers' own networks have one size.
    for name in sorted(path.stem for path in (ROOT / "configs/sizes/reduce_complexity").glob("*.yaml")):
        costs = {variant: cost(*sized) for variant, sized in variants(name).items()}
        full = costs["full"]
        for variant, (parameters, size, flops) in costs.items():
            print(
                f"| {name} | {variant} | {parameters:,} | {1 - parameters / full[0]:.1%} | {2 * size / 1e6:.2f} "
                f"| {flops / 1e6:.2f} | {1 - flops / full[2]:.1%} |"
            )


if __name__ == "__main__":
    main()
