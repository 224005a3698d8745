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

N_GENES, N_TYPES, BATCH = 2000, 9, 32
VARIANTS = {"full": [], "reduced": ["opt=reduce_complexity"], "width .5": ["model.width=0.5"]}


def build(model: str, overrides: list[str]) -> CellClassifier:
    cfg = composed(f"model={model}", *overrides)
    return instantiate(cfg.model, n_genes=N_GENES, n_types=N_TYPES, _convert_="all")


def pruned(model: CellClassifier) -> CellClassifier:
    smaller = copy.deepcopy(model)
    weights = prune.pruned(model.state_dict(), model.hidden_units(), fraction=0.5)
    prune.resize(smaller, weights)
    smaller.load_state_dict(weights)
    return smaller


def cost(model: CellClassifier) -> tuple[int, int, float]:
    """Parameters, bytes of the weights in a message, FLOPs of training on one cell."""
    content = RecordDict({"arrays": ArrayRecord(model.state_dict())})
    x, y = torch.randn(BATCH, N_GENES), torch.arange(BATCH) % N_TYPES
    parameters = sum(p.numel() for p in model.parameters())
    return parameters, recorddict_to_proto(content).ByteSize(), flops_per_cell(model, x, y)


def main() -> None:
    print(f"{N_GENES} genes, {N_TYPES} cell types; MB are sent a round and client: down, and back\n")
    print("| framework | | parameters | removed | MB | MFLOP a cell | removed |")
    print("|---|---|---|---|---|---|---|")
    for name in sorted(path.stem for path in (ROOT / "configs/model").glob("*.yaml")):
        models = {variant: build(name, overrides) for variant, overrides in VARIANTS.items()}
        models["prune .5"] = pruned(models["full"])
        full = cost(models["full"])
        for variant, model in models.items():
            parameters, size, flops = cost(model)
            print(
                f"| {name} | {variant} | {parameters:,} | {1 - parameters / full[0]:.1%} | {2 * size / 1e6:.2f} "
                f"| {flops / 1e6:.2f} | {1 - flops / full[2]:.1%} |"
            )


if __name__ == "__main__":
    main()
