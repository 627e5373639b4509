"""Which batches share kinds of cells? Designs whose answer is known, and what `overlap="auto"` says.

    python benchmarks/truth/overlap.py [--first 1000] [--seeds 5] [--data DATA.h5ad ...]

Simulated designs, and real data whose batches keep only some of their labelled types. A design is right if the groups
are those that the types make; "apart" (batches that share types are not linked, and a warning gives both readings) and
"joined" (batches that share none are linked) are counted beside it. DATA holds raw counts in X, obs["batch"] and
obs["cell_type"].
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse
from scipy.sparse.csgraph import connected_components

MIN_CELLS, MIN_SHARE = 10, 0.03  # of a type in a batch, to count as there
N_GENES = 2_000
_AB, _CD, _EF = np.repeat(np.eye(3, dtype=int), 2, axis=1)
_ABC, _DEF = np.repeat(np.eye(2, dtype=int), 3, axis=1)
TABLES = {
    "all types in 3 batches": np.ones((3, 6)),
    "all types in 6 batches": np.ones((6, 6)),
    "2 batches, nothing shared": np.stack([_ABC, _DEF]),
    "3 batches, nothing shared": np.stack([_AB, _CD, _EF]),
    "2 + 2": np.stack([_ABC, _ABC, _DEF, _DEF]),
    "3 x 3 nested": np.repeat([_AB, _CD, _EF], 3, axis=0),
    "8 + 2": np.concatenate([np.tile(_ABC, (8, 1)), np.tile(_DEF, (2, 1))]),
    "1 outlier batch": np.array([[1, 1, 1, 1, 0, 0]] * 4 + [[0, 0, 0, 0, 1, 1]]),
    "1 sorted type a batch": np.eye(6),
    "chain, 2 shared": np.array([[1, 1, 1, 0, 0], [0, 1, 1, 1, 0], [0, 0, 1, 1, 1]]),
}


def judge(name: str, seed: int, matrix: sparse.csr_matrix, batch: np.ndarray, label: np.ndarray) -> dict[str, Any]:
    """What is found in these cells, beside what their labels say."""
    from sc_vaenb.data.counts import Counts
    from sc_vaenb.fit.overlap import find_overlap

    table = pd.crosstab(batch, label).to_numpy()
    there = (table >= MIN_CELLS) & (table >= MIN_SHARE * table.sum(1, keepdims=True))
    expected = connected_components(there.astype(int) @ there.T.astype(int) > 0, directed=False)[1]
    depth = np.asarray(matrix.sum(1)).ravel()
    codes = np.unique(batch, return_inverse=True)[1].astype(np.int64)
    found = find_overlap(Counts(matrix, (depth / depth.mean()).astype(np.float32), codes)).group
    together, wanted = found[:, None] == found, expected[:, None] == expected
    return {
        "question": "which batches share kinds of cells?",
        "design": name,
        "seed": seed,
        "expected": expected.tolist(),
        "answered": found.tolist(),
        "right": bool((together == wanted).all()),
        "joined": bool((together & ~wanted).any()),
        "apart": bool((~together & wanted).any()),
    }


def simulated(seed: int) -> list[dict[str, Any]]:
    """Every design once, with effects, depth and numbers of cells drawn by the seed."""
    from sc_vaenb.datasets import simulate

    rows = []
    for name, table in TABLES.items():
        rng = np.random.default_rng([seed, len(rows)])
        n_cells = int(rng.choice([150, 300, 500])) * len(table)
        strength, fold, depth = rng.choice([0.1, 0.2, 0.3]), rng.choice([4.0, 8.0]), rng.choice([700.0, 1500.0, 4000.0])
        adata = simulate(
            n_cells,
            800,
            n_types=table.shape[1],
            n_batches=len(table),
            composition=table,
            batch_strength=strength,
            marker_fold=fold,
            mean_depth=depth,
            rng=rng,
        )
        batch, label = (adata.obs[key].to_numpy(str) for key in ("batch", "cell_type"))
        rows.append(judge(f"simulated: {name}", seed, sparse.csr_matrix(adata.X, dtype=np.float32), batch, label))
    return rows


def real(path: Path, seed: int) -> list[dict[str, Any]]:
    """The data as they are, and with types taken out of batches."""
    import anndata

    import sc_vaenb

    adata = anndata.read_h5ad(path)
    for key in list(adata.obsm):
        del adata.obsm[key]
    sc_vaenb.pp.prepare(adata, batch_key="batch", n_top_genes=min(N_GENES, adata.n_vars))
    matrix = sparse.csr_matrix(adata.layers["counts"][:, adata.var["highly_variable"].to_numpy()], dtype=np.float32)
    batch, label = (adata.obs[key].to_numpy(str) for key in ("batch", "cell_type"))
    rng = np.random.default_rng(seed)
    table = pd.crosstab(batch, label)
    batches = list(rng.permutation(table.index))
    types = list(rng.permutation([t for t in table if (table[t] >= 30).sum() >= max(2, len(batches) // 2)]))
    half = len(types) // 2
    designs: dict[str, Any] = {"as it is": {b: list(table) for b in batches}}
    if half >= 2:
        designs["2 groups"] = {b: types[:half] if i % 2 else types[half:] for i, b in enumerate(batches)}
        designs["2 types shared"] = {
            b: types[: half + 1] if i % 2 else types[half - 1 :] for i, b in enumerate(batches)
        }
    if half >= 2 and len(batches) > 2:
        designs["1 outlier batch"] = {b: types[:2] if i == 0 else types[2:] for i, b in enumerate(batches)}
    largest = table.sum(1).idxmax()
    rows = []
    for name, types_of in designs.items():
        keep = np.array([t in types_of[b] for b, t in zip(batch, label, strict=True)])
        rows.append(_judge_part(f"{path.stem}: {name}", seed, matrix, batch, label, keep))
    rows.append(_judge_part(f"{path.stem}: 1 sorted type a batch", seed, matrix, label, label, batch == largest))
    halves = rng.integers(0, 2, len(batch)).astype(str)
    rows.append(_judge_part(f"{path.stem}: random halves", seed, matrix, halves, label, batch == largest))
    return [row for row in rows if row]


def _judge_part(
    name: str, seed: int, matrix: sparse.csr_matrix, batch: np.ndarray, label: np.ndarray, keep: np.ndarray
) -> dict[str, Any]:
    sizes = pd.Series(batch[keep]).value_counts()
    keep = keep & np.isin(batch, sizes.index[sizes >= 30]) & (np.diff(matrix.indptr) > 0)
    if len(np.unique(batch[keep])) < 2:
        return {}
    return judge(name, seed, matrix[keep], batch[keep], label[keep])


def statements(seed: int) -> list[dict[str, Any]]:
    return simulated(seed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--first", type=int, default=1000, help="first seed")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--data", type=Path, nargs="*", default=[])
    options = parser.parse_args()
    rows = []
    for seed in range(options.first, options.first + options.seeds):
        rows += simulated(seed)
        for path in options.data:
            rows += real(path, seed)
    table = pd.DataFrame(rows)
    source, name = table["design"].str.split(": ", expand=True).to_numpy().T
    kind = np.where(source == "simulated", table["design"], "real: " + name.astype(str))
    verdicts = table[["right", "joined", "apart"]]
    print(verdicts.groupby(kind, sort=False).sum().assign(asked=verdicts.groupby(kind).size()).to_string())
    print(f"\nof {len(table)}: {verdicts.sum().to_dict()}")
    for row in table[~table["right"]].itertuples():
        print(f"{row.design} (seed {row.seed}): expected {row.expected}, answered {row.answered}")


if __name__ == "__main__":
    main()
