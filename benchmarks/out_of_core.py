"""tl.cvae on a million cells that stay on disk, beside reading them into memory: time, peak memory, quality.

    python benchmarks/out_of_core.py run DATA.h5ad [--cells 1000000] [--folder TMP] [--long]
    python benchmarks/out_of_core.py show

DATA holds raw counts in X, obs["batch"] and obs["cell_type"]; its cells are drawn again and again, in blocks, into an
.h5ad and a .zarr in a temporary folder (2 to 6 GB for a million). Each way is measured in a process of its own: seconds
from the closed file to the embedding, and peak memory above that of the interpreter after a small fit. `waited` is how
long passes over the cells (checking, embedding) waited for data; `stalled`, how long steps of the fit did. `--long`
adds fits of five times the steps, which see more cells than are held at once. Embeddings are scored on 5,000 cells;
`equal` says whether one is that of the fit in memory, bit for bit. Two threads, unless OMP_NUM_THREADS is set.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("NUMBA_NUM_THREADS", "2")

RESULTS = Path(__file__).parent / "results"
AT_ONCE = 50_000  # cells written together
SCORED = 5_000
WAYS = "memory", "h5ad", "zarr"


def make(data: Path, n_cells: int, folder: Path) -> None:
    """`cells.h5ad` and `cells.zarr`: cells of DATA drawn with replacement, their 2,000 variable genes."""
    import anndata
    import h5py
    import numpy as np
    import scanpy as sc
    import zarr
    from anndata.io import sparse_dataset, write_elem
    from scipy import sparse

    import sc_vaenb

    adata = sc.read_h5ad(data)
    sc_vaenb.pp.prepare(adata, "batch")
    genes = np.flatnonzero(adata.var["highly_variable"])
    counts = sparse.csr_matrix(adata.layers["counts"][:, genes])
    filled = np.flatnonzero(np.diff(counts.indptr))
    drawn = np.random.default_rng(0).choice(filled, n_cells)
    obs = adata.obs[["batch", "cell_type"]].iloc[drawn].set_axis([f"cell_{i}" for i in range(n_cells)])
    empty = anndata.AnnData(obs=obs, var=adata.var.iloc[genes][[]])
    empty.write_h5ad(folder / "cells.h5ad")
    with h5py.File(folder / "cells.h5ad", "r+") as file:
        group = zarr.open_group(folder / "cells.zarr", mode="w", zarr_format=2)
        write_elem(group, "obs", empty.obs)
        write_elem(group, "var", empty.var)
        for store in (file, group):
            if "X" in store:
                del store["X"]
            write_elem(store, "X", counts[drawn[:AT_ONCE]])
            for start in range(AT_ONCE, n_cells, AT_ONCE):
                sparse_dataset(store["X"]).append(counts[drawn[start : start + AT_ONCE]])


def opened(way: str, folder: Path):
    import anndata
    import zarr
    from anndata.io import read_elem, sparse_dataset

    if way == "memory":
        return anndata.read_h5ad(folder / "cells.h5ad")
    if way == "h5ad":
        return anndata.read_h5ad(folder / "cells.h5ad", backed="r")
    store = zarr.open(folder / "cells.zarr", mode="r")
    return anndata.AnnData(sparse_dataset(store["X"]), obs=read_elem(store["obs"]), var=read_elem(store["var"]))


def measure(way: str, folder: Path, n_steps: int | None) -> dict[str, object]:
    """Open, fit and embed; the embedding goes to a file beside the cells."""
    import numpy as np

    import sc_vaenb
    from sc_vaenb.data import on_disk as stored

    def timed(items):
        what, items = items.__name__, prefetch(items)
        while True:
            start = time.perf_counter()
            item = next(items, None)
            waited[what] = waited.get(what, 0.0) + time.perf_counter() - start
            if item is None:
                return
            yield item

    small = sc_vaenb.datasets.simulate(500, 50, rng=0)
    sc_vaenb.tl.cvae(small, "batch", layer=None, n_steps=5)
    before = resource.getrusage(resource.RUSAGE_SELF)
    waited, prefetch = {}, stored.prefetch
    stored.prefetch = timed
    try:
        start = time.perf_counter()
        adata = opened(way, folder)
        sc_vaenb.tl.cvae(adata, "batch", layer=None, n_steps=n_steps)
        took = time.perf_counter() - start
    finally:
        stored.prefetch = prefetch
    after = resource.getrusage(resource.RUSAGE_SELF)
    np.save(folder / f"{way}_{n_steps}.npy", adata.obsm["X_vae"])
    return {
        "way": way,
        "cells": adata.n_obs,
        "steps": int(adata.uns["vae"]["params"]["n_steps"]),
        "seconds": took,
        "of_it_steps": float(adata.uns["vae"]["history"]["seconds"][-1]),
        "cpu_seconds": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "waited": sum(s for what, s in waited.items() if what != "windows"),
        "stalled": waited.get("windows", 0.0),
        "peak_gib": (after.ru_maxrss - before.ru_maxrss) / 2**20,
    }


def judge(rows: list[dict[str, object]], folder: Path, plans: list[int | None]) -> None:
    """Scores on the same cells for all, and whether embeddings equal those of the fit in memory."""
    import numpy as np

    from sc_vaenb.metrics import score

    obs = opened("h5ad", folder).obs
    shown = np.sort(np.random.default_rng(0).permutation(len(obs))[:SCORED])
    types, batch = (obs[name].to_numpy(str)[shown] for name in ("cell_type", "batch"))
    for row, steps in zip(rows, plans, strict=True):
        embedding = np.load(folder / f"{row['way']}_{steps}.npy")
        row["equal"] = np.array_equal(embedding, np.load(folder / f"memory_{steps}.npy"))
        row |= {name: v for name, v in score(embedding[shown], types, batch).items() if name in {"bio", "batch"}}


def run(data: Path, n_cells: int, parent: Path | None, long: bool) -> None:
    import pandas as pd

    with tempfile.TemporaryDirectory(dir=parent) as name:
        folder = Path(name)
        make(data, n_cells, folder)
        plans = [(way, steps) for steps in ([None, 3500] if long else [None]) for way in WAYS]
        rows = []
        for way, steps in plans:
            command = [sys.executable, __file__, "measure", way, "--folder", name]
            command += [] if steps is None else ["--steps", str(steps)]
            output = subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE).stdout
            rows.append(json.loads(output.splitlines()[-1]))
            print(rows[-1], flush=True)
        judge(rows, folder, [steps for _, steps in plans])
    RESULTS.mkdir(exist_ok=True)
    pd.DataFrame(rows).to_csv(RESULTS / "out_of_core.csv", index=False, float_format="%.4g")
    show()


def show() -> None:
    import pandas as pd

    table = pd.read_csv(RESULTS / "out_of_core.csv")
    print(table.to_string(index=False, float_format=lambda value: f"{value:.3g}"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["run", "measure", "show"])
    parser.add_argument("what", nargs="?")
    parser.add_argument("--cells", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--long", action="store_true")
    parser.add_argument("--steps", type=int)
    options = parser.parse_args()
    if options.command == "run":
        run(Path(options.what), options.cells, options.folder, options.long)
    elif options.command == "measure":
        print(json.dumps(measure(options.what, options.folder, options.steps)))
    else:
        show()
