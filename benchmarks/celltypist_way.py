"""python celltypist_way.py CELLS.h5ad MODEL: CellTypist's own annotation with MODEL's genes, or its steps by hand.

Runs in an environment that has not this package. Domínguez Conde et al. 2022 (Science 376:eabl5197); the steps are
those of celltypist 1.7, classifier.py: log-normalise, standardise in a dense matrix, cap at 10, decide.
"""

import json
import sys
import time
from pathlib import Path

import anndata as ad
import numpy as np
from scipy import sparse
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler


def trained(model: Path) -> tuple[LogisticRegression, StandardScaler]:
    """A logistic regression on the model's genes and types, with made-up coefficients."""
    about = json.loads((model / "model.json").read_text())
    genes, types = about["genes"], about["cell_types"]
    scaler, classifier, rng = StandardScaler(), LogisticRegression(), np.random.default_rng(0)
    scaler.mean_, scaler.scale_ = np.array(genes["mean"]), np.array(genes["scale"])
    classifier.features, classifier.n_features_in_ = np.array(genes["genes"]), len(genes["genes"])
    classifier.coef_ = rng.normal(0, 0.01, (len(types), len(genes["genes"])))
    classifier.intercept_, classifier.classes_ = np.zeros(len(types)), np.array(types)
    return classifier, scaler


def log_normalised(path: Path) -> ad.AnnData:
    adata = ad.read_h5ad(path)
    try:
        import scanpy as sc
    except ImportError:
        counts = adata.X.astype(np.float32)
        scale = 1e4 / np.maximum(np.asarray(counts.sum(axis=1)).ravel(), 1)
        adata.X = sparse.csr_matrix(sparse.diags(scale.astype(np.float32)) @ counts).log1p()
    else:
        sc.pp.normalize_total(adata, target_sum=1e4)
        sc.pp.log1p(adata)
    return adata


def by_hand(adata: ad.AnnData, classifier: LogisticRegression, scaler: StandardScaler) -> None:
    known = np.isin(adata.var_names, classifier.features)
    order = [list(classifier.features).index(name) for name in adata.var_names[known]]
    values = (np.asarray(adata.X[:, np.flatnonzero(known)].todense()) - scaler.mean_[order]) / scaler.scale_[order]
    values[values > 10] = 10
    classifier.coef_ = classifier.coef_[:, order]
    classifier.classes_[classifier.decision_function(values).argmax(axis=1)]
    classifier.predict_proba(values)


def main() -> None:
    try:
        import celltypist
        from celltypist.models import Model
    except ImportError:
        celltypist = None
    path, (classifier, scaler) = Path(sys.argv[1]), trained(Path(sys.argv[2]))
    start = time.perf_counter()
    adata = log_normalised(path)
    if celltypist is None:
        by_hand(adata, classifier, scaler)
    else:
        celltypist.annotate(adata, model=Model(classifier, scaler, {"date": ""}), mode="best match")
    name = f"CellTypist {celltypist.__version__}" if celltypist else "scikit-learn as CellTypist predicts"
    print(f"@ {time.perf_counter() - start:.3f} @ {name}")


if __name__ == "__main__":
    main()
