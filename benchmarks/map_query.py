"""Each batch of a data set mapped on a reference of the others: how many labels are right, and is a lacking type found?

    python benchmarks/map_query.py DATA.h5ad [--without TYPE ...]

DATA holds raw counts in X, obs["batch"] and obs["cell_type"]. Labels of a fit to all cells, by the same neighbours, are
what mapping could reach. Every TYPE is left out of a further reference; novelty is to tell its cells from others.
"""

from __future__ import annotations

import argparse

import numpy as np
import scanpy as sc
from sklearn.metrics import accuracy_score, recall_score, roc_auc_score

import sc_vaenb
from sc_vaenb.inference.transfer import nearest, vote

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("data")
parser.add_argument("--without", nargs="*", default=[])
options = parser.parse_args()


def fitted(adata: sc.AnnData) -> sc.AnnData:
    adata = adata.copy()
    adata.obs["batch"] = adata.obs["batch"].cat.remove_unused_categories()
    sc_vaenb.pp.prepare(adata, batch_key="batch")
    sc_vaenb.tl.cvae(adata, "batch")
    return adata


def shares(truth: np.ndarray, found: np.ndarray) -> str:
    balanced = recall_score(truth, found, labels=np.unique(truth), average="macro", zero_division=0)
    return f"{accuracy_score(truth, found):.3f} (balanced {balanced:.3f})"


cells = sc.read_h5ad(options.data)
types, batch = (cells.obs[key].to_numpy(str) for key in ("cell_type", "batch"))
names, codes = np.unique(types, return_inverse=True)
everything = fitted(cells).obsm["X_vae"]
for name in np.unique(batch):
    new = batch == name
    known = np.isin(types[new], types[~new])
    distance, at = nearest(everything[new], everything[~new], 15)
    reachable = names[vote(distance, codes[~new][at])[0]]
    query = sc_vaenb.tl.map_query(cells[new].copy(), fitted(cells[~new]), label_key="cell_type", copy=True)
    found = query.obs["cell_type_predicted"].to_numpy(str)
    truth, right = types[new][known], shares(types[new][known], found[known])
    print(f"{name}: {known.sum()} cells, right: {right}; of a fit to all: {shares(truth, reachable[known])}")
    for lacking in options.without:
        kept, odd = ~new & (types != lacking), types[new] == lacking
        if 0 < odd.sum() < len(odd):
            query = sc_vaenb.tl.map_query(cells[new].copy(), fitted(cells[kept]), copy=True)
            rated = odd | np.isin(types[new], types[kept])
            value = roc_auc_score(odd[rated], query.obs["novelty"][rated])
            print(f"    without {lacking}: AUROC of novelty {value:.3f}")
