"""Time and peak memory of whole fits as cells, genes and batches grow.

    python benchmarks/scale.py                                    # 100 to 5,000 batches, five steps each
    python benchmarks/scale.py --cells 300000 --genes 2000 --batches 10 --steps 700
    python benchmarks/scale.py --cells 300000 --genes 2000 --batches 10 --steps 700 --backed
    python benchmarks/scale.py --cells 20000 --genes 30000 --batches 4 --steps 700

Each line is a process of its own, as a peak of memory can only be taken of a process. Counts are 5,000 simulated cells,
drawn again and again, so that making them takes neither time nor memory that would be measured; `data` is the
peak before the fit. On a busy machine the seconds of the CPU say more than those of the clock.
"""

from __future__ import annotations

import argparse
import itertools
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SIMULATED = 5000  # cells, from which all others are drawn
BATCHES = [100, 300, 1000, 5000]


def options_of(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, nargs="+", default=[], help="20 for each batch, but 2,000 at least")
    parser.add_argument("--genes", type=int, nargs="+", default=[300])
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--depth", type=float, help="counts of a cell; 1.5 for each gene, but 5,000 at most")
    parser.add_argument("--overlap", default="all", help="as of sc_vaenb.tl.cvae")
    parser.add_argument("--backed", action="store_true", help="leave the counts in a file")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def make(n_cells: int, n_genes: int, n_batches: int, depth: float, path: Path | None):
    """Counts in X, batches in obs; with a path in a file there, written some cells at a time."""
    import anndata as ad
    import h5py
    import numpy as np
    import pandas as pd
    from anndata.io import sparse_dataset, write_elem
    from scipy import sparse

    import sc_vaenb

    few = sc_vaenb.datasets.simulate(SIMULATED, n_genes, n_types=8, n_batches=2, mean_depth=depth, rng=0)
    counts, rng = sparse.csr_matrix(few.X, dtype=np.float32), np.random.default_rng(0)
    rows = [rng.integers(SIMULATED, size=min(SIMULATED, n_cells - start)) for start in range(0, n_cells, SIMULATED)]
    obs = pd.DataFrame({"batch": pd.Categorical.from_codes(rng.permutation(n_cells) % n_batches, range(n_batches))})
    obs.index = obs.index.astype(str)
    if path is None:
        return ad.AnnData(sparse.vstack([counts[part] for part in rows], format="csr"), obs, few.var)
    with h5py.File(path, "w") as file:
        write_elem(file, "X", counts[rows[0]])
        for part in rows[1:]:
            sparse_dataset(file["X"]).append(counts[part])
        write_elem(file, "obs", obs)
        write_elem(file, "var", few.var)
        file.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
    return ad.read_h5ad(path, backed="r")


def peak() -> float:
    """Of this process, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)


def measure(options: argparse.Namespace) -> str:
    import scanpy as sc

    import sc_vaenb

    sc.settings.verbosity = 0
    n_genes, n_batches = options.genes[0], options.batches[0]
    n_cells = options.cells[0] if options.cells else max(20 * n_batches, 2000)
    depth = options.depth or min(1.5 * n_genes, 5000.0)
    fit = {"layer": None, "mask_var": None, "overlap": options.overlap, "device": "cpu"}
    with tempfile.TemporaryDirectory() as folder:
        small = make(500, 50, 2, 100.0, None)  # what is compiled or imported at first use
        sc_vaenb.tl.cvae(small, "batch", n_steps=2, **fit)
        adata = make(n_cells, n_genes, n_batches, depth, Path(folder, "x.h5ad") if options.backed else None)
        before, start, cpu = peak(), time.perf_counter(), time.process_time()
        sc_vaenb.tl.cvae(adata, "batch", n_steps=options.steps, **fit)
        seconds, cpu, after = time.perf_counter() - start, time.process_time() - cpu, peak()
    place = "file" if options.backed else "memory"
    return (
        f"{n_cells:>9,} {n_genes:>7,} {n_batches:>8,} {options.steps:>6,}  {place:<7}{seconds:>9.1f} {cpu:>6.1f} "
        f"{before:>7.2f} {after:>7.2f}"
    )


def main(arguments: list[str] | None = None) -> None:
    options = options_of(arguments)
    if options.one:
        print(measure(options))
        return
    print("    cells   genes  batches  steps  counts   seconds  CPU s data GB peak GB", flush=True)
    for n_cells, n_genes, n_batches in itertools.product(options.cells or [None], options.genes, options.batches):
        command = [sys.executable, __file__, "--one", "--genes", str(n_genes), "--batches", str(n_batches)]
        command += ["--steps", str(options.steps), "--overlap", options.overlap]
        command += ["--cells", str(n_cells)] if n_cells else []
        command += ["--depth", str(options.depth)] if options.depth else []
        command += ["--backed"] if options.backed else []
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        print(done.stdout.rstrip() or f"{n_cells} x {n_genes}, {n_batches} batches failed:\n{done.stderr}", flush=True)


if __name__ == "__main__":
    main()
