"""Does `tl.differential(sample_key=)` keep its FDR where donors differ, and what does it find? Truth is simulated.

    python benchmarks/differential_donors.py --first 1000 --n 100 [--n-cells 20] [--designs NAME ...]
    python benchmarks/differential_donors.py --real ../shared/data

A table row is a design; an entry is observed FDR / power / genes called, means over data sets, at a nominal FDR of 5 %.
A gene differs if the log2 fold change of the population is beyond +- 0.25 (`truth`); where no gene does, the FDR is the
share of data sets with any gene called. The statistic with donors reads nothing of a model but genes and size factors,
so none is fitted. The test of cells is that of `tl.differential` without sample_key, by a decoder that gives each
group its mean; it and Wilcoxon's (scanpy) see `--n-cells` data sets.
"""

import argparse
import warnings
from itertools import combinations
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scanpy as sc
from scipy import sparse
from scipy.stats import false_discovery_control, t

from sc_vaenb.data.counts import Counts
from sc_vaenb.inference.differential import StratumSums, difference, overdispersion
from sc_vaenb.inference.shrink import false_discovery_rate, shrink
from sc_vaenb.inference.variance_prior import fit_prior, moderate
from sc_vaenb.tl._donors import Donors, compare_by_donors, plan_comparisons

DELTA, NOMINAL, N_GENES = 0.25, 0.05, 400
NULL = {"share": 0.0}
FEW, MANY = {"donors": (3, 3)}, {"donors": (8, 8), "cells": (20, 2000)}
DESIGNS = {
    "null, 2 v 2": NULL | {"donors": (2, 2)},
    "null, 3 v 3, donors differ much": NULL | FEW | {"donor_sd": 0.6},
    "null, 4 v 4": NULL,
    "null, 4 v 4, donors alike": NULL | {"donor_sd": 0.0},
    "null, 8 v 8, 20 to 2000 cells": NULL | MANY,
    "null, 4 v 4, one donor is off": NULL | {"outlier": 1.5},
    "null, 4 v 4, some genes vary most": NULL | {"donor_sd": 0.15, "hypervariable": 0.1},
    "null, 4 v 4, donors share a programme": NULL | {"programme": 0.4},
    "null, 4 v 4, a side has a tenth of cells, half of depth": NULL | {"cell_ratio": 0.1, "depth_ratio": 0.5},
    "null, crossed, 6 donors respond": NULL | {"donors": (6, 6), "crossed": 6, "response_sd": 0.4},
    "null, crossed, 3 donors, rare group": NULL | FEW | {"crossed": 3, "response_sd": 0.2, "cell_ratio": 0.1},
    "2 v 2": {"donors": (2, 2)},
    "3 v 3": FEW,
    "3 v 3, donors differ much": FEW | {"donor_sd": 0.6},
    "4 v 4": {},
    "4 v 4, donors alike": {"donor_sd": 0.0},
    "8 v 8, 20 to 2000 cells": MANY,
    "8 v 8, donors differ little": MANY | {"donor_sd": 0.1},
    "3 v 9": {"donors": (3, 9)},
    "5 v 5, low depth, few cells": {"donors": (5, 5), "depth": 200, "cells": (20, 60)},
    "4 v 4, one donor is off": {"outlier": 1.5},
    "5 v 5, some genes vary most": {"donors": (5, 5), "donor_sd": 0.15, "hypervariable": 0.1},
    "4 v 4, donors share a programme": {"programme": 0.4},
    "4 v 4, some genes absent from a group": {"absent": 0.3},
    "5 v 5, all changes upwards": {"donors": (5, 5), "upwards": True},
    "8 v 8, small changes everywhere": {"donors": (8, 8), "donor_sd": 0.15, "background": 0.1},
    "6 v 6 in 3 batches": {"donors": (6, 6), "batches": 3, "batch_sd": 0.5},
    "crossed, 3 donors": FEW | {"crossed": 3, "response_sd": 0.15},
    "crossed, 6 donors respond": {"donors": (6, 6), "crossed": 6, "response_sd": 0.3},
    "crossed, 8 donors, rare group": {"donors": (8, 8), "crossed": 8, "response_sd": 0.2, "cell_ratio": 0.1},
    "4 crossed, 4 v 4 nested": {"donors": (8, 8), "crossed": 4, "response_sd": 0.2},
}  # fmt: skip


def simulate(
    seed, *, donors=(4, 4), crossed=0, cells=(30, 120), depth=1000, share=0.2, folds=(0.5, 1.0, 2.0), donor_sd=0.3,
    response_sd=0.0, df=8, outlier=0.0, hypervariable=0.0, programme=0.0, cell_ratio=1.0, depth_ratio=1.0, absent=0.0,
    upwards=False, background=0.0, batches=1, batch_sd=0.0, theta=2.0,
):  # fmt: skip
    """Negative binomial counts, shares of the depth, with an effect of each donor, and of each donor's response.

    Variances of donors over genes are scaled inverse chi-squared; `crossed` of the donors have cells on both sides.
    """
    rng = np.random.default_rng(seed)
    base, change = rng.normal(0, 1.2, N_GENES), np.zeros(N_GENES)
    differ = rng.permutation(N_GENES)[: round(share * N_GENES)]
    change[differ] = rng.choice(folds, len(differ)) * (1 if upwards else rng.choice([-1, 1], len(differ)))
    lost = differ[: round(absent * len(differ))]
    change[lost] = 12 * rng.choice([-1, 1], len(lost))
    change += rng.normal(0, background, N_GENES) * (change == 0)
    log_rate = base + np.outer([0.0, 1.0], np.where(np.abs(change) > 10, 0, -change)) * np.log(2)
    log_rate[1] -= np.where(change > 10, 8, 0)  # absent from the reference, or from the group
    log_rate[0] -= np.where(change < -10, 8, 0)
    truth = np.diff(log_rate[::-1] - np.log(np.exp(log_rate[::-1]).sum(1, keepdims=True)), axis=0)[0] / np.log(2)

    def sds(typical):
        found = typical * np.sqrt(df / rng.chisquare(df, N_GENES)) * np.where(rng.random(N_GENES) < hypervariable, 4, 1)
        return np.minimum(found, 1.5)

    sd, response = sds(donor_sd), sds(response_sd)
    thetas, loading = theta * rng.lognormal(0, 0.5, N_GENES), rng.normal(0, 1, N_GENES)
    odd = rng.normal(0, outlier, N_GENES) * (rng.random(N_GENES) < 0.3)
    batch_effect = rng.normal(0, batch_sd, (batches, N_GENES))
    members = [(d, 0) for d in range(donors[0])]
    members += [(d if d < crossed else donors[0] + d, 1) for d in range(donors[1])]
    own = {d: rng.normal(0, sd) + programme * rng.normal() * loading for d in sorted({d for d, _ in members})}
    x, donor, side, batch = [], [], [], []
    for d, s in members:
        n = round(np.exp(rng.uniform(*np.log(cells))) * (1 if s else cell_ratio))
        effect = own[d] + rng.normal(0, response) + odd * (d == 0) + batch_effect[d % batches]
        rate = np.exp(log_rate[s] + effect)
        size = depth * (1 if s else depth_ratio) * rng.lognormal(-0.045, 0.3, max(n, 3))
        mean = size[:, None] * rate / rate.sum()
        x.append(sparse.csr_matrix(rng.poisson(rng.gamma(thetas, mean / thetas)).astype(np.float32)))
        donor += [d] * len(size)
        side += [s] * len(size)
        batch += [d % batches] * len(size)
    return sparse.vstack(x, format="csr"), *map(np.array, (donor, side, batch)), truth


def by_donors(x, donor, side, batch):
    """`tl.differential(sample_key=)`: the table of group 0 against 1, genes in order."""
    size = np.asarray(x.sum(1), np.float32).ravel()
    counts = Counts(x, np.maximum(size, 1) / size.mean(), batch)
    genes, donors = (
        [str(i) for i in range(x.shape[1])],
        Donors("donor", donor, [str(d) for d in range(donor.max() + 1)]),
    )
    names, others, used = ["group", "reference"], {0: [1]}, np.ones(len(donor), bool)
    plans = plan_comparisons(donors, batch, side, names, others, "reference", "batch")
    tables, _ = compare_by_donors(counts, genes, donors, side, names, used, others, plans, DELTA)
    return tables[0].set_index("names").loc[genes]


def pseudobulk_tests(x, donor, side, batch):
    """FDR of t-tests of log counts per donor, plain and with limma's moderated variances; batches are not known."""
    units, row = np.unique(np.column_stack([side, donor]), axis=0, return_inverse=True)
    sums = (sparse.csr_matrix((np.ones(len(donor)), (row.ravel(), np.arange(len(donor))))) @ x).toarray()
    y = np.log2((sums + 0.5) / sums.sum(1, keepdims=True))
    group, reference = (y[units[:, 0] == code] for code in (0, 1))
    paired = set(units[units[:, 0] == 0, 1]) == set(units[units[:, 0] == 1, 1])
    if paired:
        gap = group - reference
        effect, s2, df, scale = gap.mean(0), gap.var(0, ddof=1), len(gap) - 1, 1 / len(gap)
    else:
        n, m = len(group), len(reference)
        effect, df, scale = group.mean(0) - reference.mean(0), n + m - 2, 1 / n + 1 / m
        s2 = ((n - 1) * group.var(0, ddof=1) + (m - 1) * reference.var(0, ddof=1)) / df
    dfs = np.full(len(s2), float(df))
    prior = fit_prior(s2, dfs)
    for variance, used_df in ((s2, df), (moderate(s2, dfs, prior), min(df + prior.df, 1e6))):
        p = 2 * t.sf(np.abs(effect) / np.sqrt(np.maximum(variance, 1e-12) * scale), used_df)
        yield false_discovery_control(p)


def by_cells(x, side, batch):
    """FDR of `tl.differential` with cells as replicates, by a decoder that gives each group its mean."""
    x, size = x.toarray().astype(float), np.maximum(np.asarray(x.sum(1), float), 1)
    size /= size.mean()
    sums = [{}, {}]
    for code in (0, 1):
        for b in np.unique(batch[side == code]):
            cells = (side == code) & (batch == b)
            mu = np.maximum(x[cells].sum(0) / size[cells].sum(), 1e-9) * size[cells]
            over = np.maximum(((x[cells] - mu) ** 2 - mu).sum(0) / (mu**2).sum(0), 1e-3)
            weight = 1 / (1 + mu * over)
            values = (mu / size[cells], (mu / size[cells]) ** 2, weight * mu, weight * x[cells])
            values += ((weight * (x[cells] - mu)) ** 2, x[cells], x[cells] > 0)
            sums[code][int(b)] = StratumSums(int(cells.sum()), *(v.sum(0) for v in values))
    found = difference(*sums, overdispersion([s for each in sums for s in each.values()]))
    return false_discovery_rate(shrink(found.log2_fold, found.sd, DELTA).local_fdr)


def wilcoxon(x, side):
    adata = ad.AnnData(x.copy(), obs={"side": pd.Categorical(side.astype(str))})
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    sc.tl.rank_genes_groups(adata, "side", groups=["0"], reference="1", method="wilcoxon")
    return sc.get.rank_genes_groups_df(adata, "0").set_index("names").loc[adata.var_names, "pvals_adj"].to_numpy()


def measure(options, seeds, n_cells):
    """FDR, power and genes called, by method."""
    rows = []
    for i, seed in enumerate(seeds):
        x, donor, side, batch, truth = simulate(seed, **options)
        fdr = {"donors": by_donors(x, donor, side, batch)["fdr"].to_numpy()}
        fdr["t"], fdr["limma"] = pseudobulk_tests(x, donor, side, batch)
        if i < n_cells:
            fdr |= {"cells": by_cells(x, side, batch), "Wilcoxon": wilcoxon(x, side)}
        differs = np.abs(truth) > DELTA
        for method, values in fdr.items():
            called = values <= NOMINAL
            share_false, power = (called & ~differs).sum() / max(called.sum(), 1), (called & differs).sum()
            rows.append(
                {"method": method, "FDR": share_false, "power": power / max(differs.sum(), 1), "n": called.sum()}
            )
    return pd.DataFrame(rows).groupby("method").agg({"FDR": ["mean", "sem"], "power": "mean", "n": "mean"})


def table(seeds, n_cells, designs):
    methods = ["donors", "limma", "t", "cells", "Wilcoxon"]
    print("| design | " + " | ".join(methods) + " |\n|---" + "|---" * len(methods) + "|")
    for name in designs:
        found = measure(DESIGNS[name], seeds, n_cells)
        entries = []
        for method in methods:
            if method not in found.index:
                entries.append("")
                continue
            row = found.loc[method]
            power = f"{row['power', 'mean']:.2f}" if DESIGNS[name].get("share", 1) else "-"
            entries.append(f"{row['FDR', 'mean']:.3f} ± {row['FDR', 'sem']:.3f} / {power} / {row['n', 'mean']:.0f}")
        print(f"| {name} | " + " | ".join(entries) + " |", flush=True)


def real(folder, rng):
    """The pig airway (3 v 4 animals), its permutations, and nulls of eight donors under one condition."""
    adata = ad.read_h5ad(folder / "de_pig_airway_cf_7animals.h5ad")
    animals = adata.obs.groupby("donor", observed=True)["condition"].first()
    codes, one_batch = adata.obs["donor"].cat.codes.to_numpy(np.int64), np.zeros(adata.n_obs, np.int64)
    for kind in adata.obs["cell_type"].cat.categories:
        cells = (adata.obs["cell_type"] == kind).to_numpy()
        x, donor = sparse.csr_matrix(adata.X[cells]), codes[cells]
        side = (adata.obs["condition"] == "WT").to_numpy(np.int64)[cells]
        found = by_donors(x, donor, side, one_batch[cells])
        best = found["p_value"].to_numpy().argsort()[:3]
        n_called, n_cells = ((fdr <= NOMINAL).sum() for fdr in (found["fdr"], by_cells(x, side, one_batch[cells])))
        first = ", ".join(f"{adata.var_names[i]} ({found['fdr'].iloc[i]:.2g})" for i in best)
        print(f"{kind}: {n_called} genes called, by cells {n_cells}; first (fdr): {first}")
        called = []
        for case in combinations(range(len(animals)), 3):
            if tuple(animals.index[list(case)]) != tuple(animals.index[animals == "CFTRKO"]):
                called.append((by_donors(x, donor, 1 - np.isin(donor, case), one_batch[cells])["fdr"] <= NOMINAL).sum())
        print(
            f"    {len(called)} permutations of animals: {np.mean(np.array(called) > 0):.3f} call any gene", flush=True
        )
    adata = ad.read_h5ad(folder / "pbmc_kang_ctrl_8donors.h5ad")
    codes = adata.obs["batch"].cat.codes.to_numpy(np.int64)
    for kind in ("CD4 T cells", "CD14+ Monocytes", "B cells", "NK cells", "Dendritic cells"):
        cells = (adata.obs["cell_type"] == kind).to_numpy()
        x, donor, one_batch = sparse.csr_matrix(adata.X[cells]), codes[cells], np.zeros(cells.sum(), np.int64)
        called = {"nested": [], "crossed": [], "cells, nested": []}
        for case in combinations(range(8), 4):
            if 0 in case:
                side = 1 - np.isin(donor, case)
                called["nested"].append((by_donors(x, donor, side, one_batch)["fdr"] <= NOMINAL).sum())
                if len(called["cells, nested"]) < 5:
                    called["cells, nested"].append((by_cells(x, side, one_batch) <= NOMINAL).sum())
                side = rng.permutation(len(donor)) % 2
                called["crossed"].append((by_donors(x, donor, side, one_batch)["fdr"] <= NOMINAL).sum())
        text = "; ".join(f"{name}: {np.mean(np.array(n) > 0):.3f} of {len(n)} call any gene (mean {np.mean(n):.1f})"
                         for name, n in called.items())  # fmt: skip
        print(f"{kind}, 8 donors split: {text}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--first", type=int, default=0, help="first seed")
    parser.add_argument("--n", type=int, default=20, help="data sets of a design")
    parser.add_argument("--n-cells", type=int, default=20, help="of these, for the tests of cells")
    parser.add_argument("--designs", nargs="*", default=list(DESIGNS), help="names of designs")
    parser.add_argument("--real", type=Path, help="folder with published data, instead of designs")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    sc.settings.verbosity = 0
    if args.real:
        real(args.real, np.random.default_rng(args.first))
    else:
        table(range(args.first, args.first + args.n), args.n_cells, args.designs)
