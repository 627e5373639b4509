"""Does `tl.differential` hold what its FDR promises, and what does it find? Beside scanpy's tests, on simulated truth.

    python benchmarks/differential.py [replicates] [design ...]

A gene differs if the true log2 fold change between a type and the rest, within batches, is beyond +- 0.25. Observed FDR
and power are means over replicates and types. The tests' hypothesis is another (no difference at all, batches not
known), with Benjamini & Hochberg's FDR.
"""

import sys
import time
import warnings

import numpy as np
import pandas as pd
import scanpy as sc
from scipy.stats import spearmanr
from sklearn.metrics import average_precision_score

import sc_vaenb

DELTA, NOMINAL = 0.25, (0.01, 0.05, 0.1, 0.2)
DESIGNS = {
    "balanced": {"n_types": 4, "n_batches": 2, "mean_depth": 600, "marker_fold": 4},
    "weak markers, unequal batches and depths": {
        "n_types": 3, "n_batches": 3, "mean_depth": [400, 800, 1600], "batch_strength": 0.5, "marker_fold": 1.7,
        "composition": [[6, 3, 1], [1, 3, 6], [2, 1, 2]],
    },
    "rare type, few counts": {
        "n_types": 3, "n_batches": 2, "mean_depth": 300, "batch_strength": 0.5, "marker_fold": 3, "theta": 1,
        "composition": [[20, 10, 2], [12, 15, 1]],
    },
}  # fmt: skip


def true_log2_fold(adata, code):
    """Of a type against the rest: shares of the depth, averaged over the cells of a batch and then over batches."""
    truth = adata.uns["truth"]
    share = np.exp(truth["type_log_rate"] + truth["batch_log_effect"][:, None])
    share /= share.sum(2, keepdims=True)
    n_of = truth["composition"][:, :, None]  # batches x types x 1
    here, rest = n_of[:, code], np.delete(n_of, code, 1)
    weight = here * rest.sum(1) / (here + rest.sum(1))
    mean_rest = (rest * np.delete(share, code, 1)).sum(1) / rest.sum(1)
    return np.log2((weight * share[:, code]).sum(0) / (weight * mean_rest).sum(0))


def replicate(options, seed):
    adata = sc_vaenb.datasets.simulate(500, 400, rng=seed, **options)
    adata.layers["counts"] = adata.X.copy()
    sc_vaenb.tl.cvae(adata, "batch", n_steps=100, n_latent=10, device="cpu", rng=seed)
    start = time.perf_counter()
    sc_vaenb.tl.differential(adata, "cell_type", delta=DELTA, device="cpu")
    print(f"replicate {seed}: {time.perf_counter() - start:.1f} s", file=sys.stderr)
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    for method in ("t-test", "wilcoxon"):
        sc.tl.rank_genes_groups(adata, "cell_type", method=method, key_added=method)
    for code, group in enumerate(adata.obs["cell_type"].cat.categories):
        truth = np.abs(true_log2_fold(adata, code)) > DELTA
        found = {key: sc.get.rank_genes_groups_df(adata, group, key=key).set_index("names").loc[adata.var_names]
                 for key in ("differential", "t-test", "wilcoxon")}  # fmt: skip
        for method, table in found.items():
            row = {"method": method, "AUPRC": average_precision_score(truth, table["scores"].abs())}
            row["rank correlation with t-test"] = spearmanr(table["scores"], found["t-test"]["scores"])[0]
            for level in NOMINAL:
                called = (table["pvals_adj"] <= level).to_numpy()
                row[f"FDR {level:g}"] = (called & ~truth).sum() / max(called.sum(), 1)
                row[f"power {level:g}"] = (called & truth).sum() / truth.sum()
            yield row


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    sc.settings.verbosity = 0
    n_replicates, wanted = int((sys.argv[1:] or ["20"])[0]), sys.argv[2:] or list(DESIGNS)
    for design in wanted:
        rows = pd.DataFrame(row for seed in range(n_replicates) for row in replicate(DESIGNS[design], seed))
        means = rows.groupby("method", sort=False).mean().T.round(3)
        print(f"\n{design}: {n_replicates} replicates\n{means}", flush=True)
