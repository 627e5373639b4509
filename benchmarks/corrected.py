"""Corrected expression of one real data set: can the batch still be told from it, and are the marker genes still there?

    python benchmarks/corrected.py DATA.h5ad

DATA holds raw counts in X, obs["batch"] and obs["cell_type"]. Printed are, for expression as log1p of 10,000 per cell,

batch      balanced accuracy of a logistic regression that tells the batch (threefold cross-validated, 2,500 cells);
           "cell types alone" is what the composition of the batches gives away, which no correction should remove
top 50     share of each type's 50 marker genes found again, by the difference of the mean from the other cells
AUROC      of each type's 10 best marker genes, for telling the type from the other cells

The marker genes are those of the raw expression of one half of the cells, the mean over the batches, so that batch
effects do not make them; both measures are taken on the other half, all batches together.
"""

from __future__ import annotations

import argparse

import numpy as np
import scanpy as sc
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import sc_vaenb

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("data")
options = parser.parse_args()
FEW = 15  # cells of a type in a batch, with fewer of which it has no markers there

adata = sc.read_h5ad(options.data)
sc_vaenb.pp.prepare(adata, batch_key="batch")
adata = adata[:, adata.var["highly_variable"]].copy()
sc_vaenb.tl.cvae(adata, "batch")
sc_vaenb.tl.normalized(adata)
sc_vaenb.tl.corrected(adata)
sc_vaenb.tl.corrected(adata, counts=True)
types, batch = adata.obs["cell_type"].to_numpy(str), adata.obs["batch"].to_numpy(str)
rng = np.random.default_rng(0)
first, some = rng.random(adata.n_obs) < 0.5, np.sort(rng.permutation(adata.n_obs)[:2500])


def expression(layer: str) -> np.ndarray:
    values = adata.layers[layer]
    values = values.toarray() if hasattr(values, "toarray") else values
    return np.log1p(1e4 * values / np.maximum(values.sum(1, keepdims=True), 1))


def batch_accuracy(values: np.ndarray) -> float:
    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=200))
    return cross_val_score(classifier, values[some], batch[some], cv=3, scoring="balanced_accuracy").mean()


def difference(values: np.ndarray, of_type: np.ndarray) -> np.ndarray:
    return values[of_type].mean(0) - values[~of_type].mean(0)


def markers(values: np.ndarray) -> dict[str, np.ndarray]:
    found = {}
    for name in np.unique(types):
        there = [first & (batch == b) for b in np.unique(batch)]
        parts = [difference(values[c], types[c] == name) for c in there if (types[c] == name).sum() >= FEW]
        if parts:
            found[name] = np.argsort(-np.mean(parts, 0))[:50]
    return found


top = markers(expression("counts"))
alone = (types[:, None] == np.unique(types)).astype(float)
print(f"chance {1 / len(set(batch)):.3f}, cell types alone {batch_accuracy(alone):.3f}")
print(f"{'':18}{'batch':>7}{'top 50':>8}{'AUROC':>7}")
for layer in ("counts", "normalized", "corrected", "corrected_counts"):
    values = expression(layer)
    rest = values[~first]
    again, auroc = [], []
    for name, genes in top.items():
        of_type = types[~first] == name
        again.append(len(np.intersect1d(genes, np.argsort(-difference(rest, of_type))[:50])) / len(genes))
        auroc += [roc_auc_score(of_type, rest[:, gene]) for gene in genes[:10]]
    print(f"{layer:18}{batch_accuracy(values):7.3f}{np.mean(again):8.3f}{np.mean(auroc):7.3f}")
