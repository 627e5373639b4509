"""Do labels of some cells say what the others are, and what do they do to the embedding?

    python benchmarks/labels.py run DATA.h5ad ... [--shares 0.01 0.1 0.5] [--seeds 0 1] [--jobs 1]
    python benchmarks/labels.py show

DATA holds raw counts in X, obs["batch"] and obs["cell_type"]. A share of the labels is known, drawn at random, and one
of each at least. Of the other cells are measured accuracy, macro F1 and calibration error (15 bins) of

tl.cvae            with labels_key: obs["vae_label"]
neighbours, plain  the votes of the 15 nearest cells with a known label, in the embedding of tl.cvae without labels
regression, plain  a logistic regression (scikit-learn's defaults) on the cells with a known label, in the same
neighbours, regression
                   the same two in the embedding with labels

and, where half of the labels are known, `bio`, `batch` and `total` of metrics.score on the other cells, with labels and
without: cells whose own labels shaped the embedding would flatter it. Rows with `without` are fits to half of the
labels in which no cell of one kind (the one of median size) has a label: `promised` is the median of the highest
probability of its cells, `told_apart` the AUROC of one minus that probability for telling them from the other cells
without a label, `together` the share of their 15 nearest neighbours that are of their kind.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
TABLE = RESULTS / "labels.csv"


def job(path: Path, seed: int, shares: list[float], table: Path, n_steps: int | None = None) -> None:
    """All fits to one data set with one seed; rows are written as they come."""
    import numpy as np
    import pandas as pd
    import scanpy as sc
    import torch
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import f1_score, roc_auc_score

    import sc_vaenb
    from sc_vaenb.fit.classify import calibration_error
    from sc_vaenb.inference.transfer import nearest
    from sc_vaenb.metrics import score

    torch.set_num_threads(1)
    sc.settings.verbosity = 0
    adata = sc.read_h5ad(path)
    adata.obs_names_make_unique()
    sc_vaenb.pp.prepare(adata, batch_key="batch")
    batch = adata.obs["batch"].to_numpy(str)
    names, truth = np.unique(adata.obs["cell_type"].to_numpy(str), return_inverse=True)

    def embedding() -> np.ndarray:
        sc_vaenb.tl.cvae(adata, "batch", rng=seed, n_steps=n_steps)
        return adata.obsm["X_vae"].copy()

    def with_labels(known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Embedding and probabilities."""
        adata.obs["known"] = np.where(known, names[truth], "unknown")
        sc_vaenb.tl.cvae(adata, "batch", labels_key="known", rng=seed, n_steps=n_steps)
        there = np.searchsorted(names, adata.uns["vae"]["labels"]["names"].astype(str))
        probabilities = np.zeros((adata.n_obs, len(names)))
        probabilities[:, there] = adata.obsm["vae_label_probabilities"].to_numpy()
        return adata.obsm["X_vae"].copy(), probabilities

    def votes(latent: np.ndarray, known: np.ndarray) -> np.ndarray:
        distance, at = nearest(latent, latent[known], 15)
        weight = np.exp(-((distance / np.maximum(distance.mean(1, keepdims=True), 1e-12)) ** 2))
        found = np.zeros((len(latent), len(names)))
        np.add.at(found, (np.arange(len(latent))[:, None], truth[known][at]), weight)
        return found / found.sum(1, keepdims=True)

    def regression(latent: np.ndarray, known: np.ndarray) -> np.ndarray:
        return LogisticRegression(max_iter=1000).fit(latent[known], truth[known]).predict_proba(latent)

    def write(**row: object) -> None:
        columns = ["data", "seed", "share", "method", "n_known", "without", "accuracy", "macro_f1", "calibration_error"]
        columns += ["bio", "batch", "total", "promised", "told_apart", "together"]
        values = pd.DataFrame([{"data": path.stem, "seed": seed, **row}], columns=columns)
        values.to_csv(table, mode="a", header=not table.exists(), index=False, float_format="%.4f")

    def together(latent: np.ndarray, cells: np.ndarray) -> float:
        at = nearest(latent[cells], latent, 16)[1][:, 1:]
        return float(cells[at].mean())

    plain = embedding()
    rng = np.random.default_rng(seed)
    order = rng.permutation(adata.n_obs)
    one_of_each = [rng.choice(np.flatnonzero(truth == label)) for label in range(len(names))]
    for share in shares:
        known = np.zeros(adata.n_obs, bool)
        known[order[: round(share * adata.n_obs)]] = True
        known[one_of_each] = True
        latent, probabilities = with_labels(known)
        rest = ~known
        found = {
            "tl.cvae": probabilities,
            "neighbours, plain": votes(plain, known),
            "regression, plain": regression(plain, known),
            "neighbours": votes(latent, known),
            "regression": regression(latent, known),
        }
        scored = {"tl.cvae": latent, "neighbours, plain": plain} if share == 0.5 else {}
        for method, values in found.items():
            label = values[rest].argmax(1)
            row = {"accuracy": (label == truth[rest]).mean(), "macro_f1": f1_score(truth[rest], label, average="macro")}
            row["calibration_error"] = calibration_error(values[rest], truth[rest])
            if method in scored:
                whole = score(scored[method][rest], names[truth[rest]], batch[rest])
                row |= {name: whole[name] for name in ("bio", "batch", "total")}
            write(share=share, method=method, n_known=known.sum(), **row)
    if 0.5 in shares:
        size = np.bincount(truth)
        lacking = int(np.argsort(size)[len(size) // 2])
        odd = truth == lacking
        known = np.zeros(adata.n_obs, bool)
        known[order[: adata.n_obs // 2]] = True
        known[odd] = False
        latent, probabilities = with_labels(known)
        promised = probabilities.max(1)
        auroc = roc_auc_score(odd[~known], 1 - promised[~known])
        about = {"share": 0.5, "n_known": known.sum(), "without": names[lacking]}
        told = {"promised": np.median(promised[odd]), "told_apart": auroc, "together": together(latent, odd)}
        write(method="tl.cvae", **about, **told)
        write(method="neighbours, plain", **about, together=together(plain, odd))


def show() -> None:
    import pandas as pd

    table = pd.read_csv(TABLE)
    found = table[table["without"].isna()]
    columns = ["accuracy", "macro_f1", "calibration_error", "bio", "batch", "total"]
    print(found.groupby(["data", "share", "method"])[columns].mean().round(3).to_string())
    print(table[table["without"].notna()].dropna(axis=1, how="all").to_string(index=False))


if __name__ == "__main__":
    for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run")
    running.add_argument("data", nargs="+", type=Path)
    running.add_argument("--shares", nargs="+", type=float, default=[0.01, 0.1, 0.5])
    running.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    running.add_argument("--jobs", type=int, default=1)
    commands.add_parser("show")
    options = parser.parse_args()
    if options.command == "run":
        from joblib import Parallel, delayed

        RESULTS.mkdir(exist_ok=True)
        tasks = [(path, seed, options.shares, TABLE) for path in options.data for seed in options.seeds]
        Parallel(n_jobs=options.jobs)(delayed(job)(*task) for task in tasks)
    show()
