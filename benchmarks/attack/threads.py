"""Call functions in threads, forked and spawned processes, and compare with one call after the other, bit for bit.

    OMP_NUM_THREADS=2 python benchmarks/attack/threads.py [--tries 8] [--workers 4] [--ways threads fork] [--only vae]

All calls of a way run at once, mixed, in one pool of workers. Each ends as `same`, `different`, an `error`, or `hangs`
(no answer in --timeout seconds). The exit status says whether all are `same`. A forked process computes on one thread:
there the call to compare with does, too. Nothing is downloaded or written.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import multiprocessing
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import scanpy as sc
import torch
from threadpoolctl import threadpool_limits

from sc_vaenb import datasets, pp, tl

FIT = {"n_latent": 4, "hidden": (16,), "n_steps": 40, "device": "cpu", "key_added": "again"}
FITS = "vae", "cvae", "map_query"


def prepared():
    """Counts with a fitted model."""
    adata = datasets.simulate(300, 120, n_types=3, n_batches=3, rng=1)
    pp.prepare(adata, batch_key="batch")
    tl.cvae(adata, "batch", labels_key="cell_type", **FIT | {"key_added": "cvae"})
    return adata


def mapped(adata):
    query = adata[::2].copy()
    query.obs["batch"] = "new"
    tl.map_query(query, adata, "cvae", label_key="cell_type", n_steps=20, device="cpu")
    return [query.obsm["X_cvae"], query.obs.astype(str)]


def scored(adata):
    tl.score(adata, ["X_cvae"], batch_key="batch", label_key="cell_type", reference=None)
    return adata.uns["scores"]


def fitted(function, *args, **kwargs):
    def call(adata):
        function(adata, *args, **FIT, **kwargs)
        return adata.obsm["X_again"]

    return call


def added(function, *args, **kwargs):
    """What a function writes into `layers` and `uns`, or returns."""

    def call(adata):
        before = set(adata.layers) | set(adata.uns)
        returned = function(adata, *args, **kwargs)
        slots = (adata.layers, adata.uns) if returned is None else (returned.layers, {"X": returned.X})
        return [value for slot in slots for key, value in slot.items() if returned is not None or key not in before]

    return call


CALLS = {
    "vae": fitted(tl.vae, dropout=0.2, prior="mog", n_components=3),
    "cvae": fitted(tl.cvae, "batch", adversary=1.0),
    "normalized": added(tl.normalized, "cvae", n_samples=3),
    "differential": added(tl.differential, "cell_type", "cvae"),
    "map_query": mapped,
    "sample": added(tl.sample, 200, "cvae"),
    "score": scored,
}


def feed(digest, value):
    """Hash all numbers and texts in a value."""
    if isinstance(value, dict):
        for key in sorted(set(value) - {"seconds", "version"}):
            digest.update(str(key).encode())
            feed(digest, value[key])
    elif isinstance(value, pd.DataFrame):
        feed(digest, {str(column): value[column].to_numpy() for column in value})
    elif isinstance(value, list):
        for part in value:
            feed(digest, part)
    elif hasattr(value, "toarray"):
        feed(digest, value.toarray())
    elif (array := np.asarray(value)).dtype.names:
        feed(digest, {name: array[name] for name in array.dtype.names})
    elif array.dtype.kind in "biufc":
        digest.update(np.ascontiguousarray(array))
    else:
        digest.update(repr(array.astype(str).tolist()).encode())


def run(name, adata):
    """A hash of what a call gives on a copy of the data."""
    digest = hashlib.sha256()
    feed(digest, CALLS[name](adata.copy()))
    return digest.hexdigest()


def attempt(name, adata):
    try:
        return run(name, adata)
    except Exception as error:
        return f"error: {type(error).__name__}: {error}"[:300]


DATA = None  # of a worker process


def begin(adata):
    global DATA
    DATA = adata
    sc.settings.verbosity = 0


def attempt_in_process(name):
    return attempt(name, DATA)


def in_threads(names, adata, workers, timeout):
    pool = ThreadPoolExecutor(workers)
    answers = [pool.submit(attempt, name, adata) for name in names]
    return collect([answer.result for answer in answers], timeout)


def in_asyncio(names, adata, workers, timeout):
    async def main():
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(workers))
        calls = (asyncio.to_thread(attempt, name, adata) for name in names)
        return await asyncio.wait_for(asyncio.gather(*calls), timeout)

    return asyncio.run(main())


def in_processes(method):
    def way(names, adata, workers, timeout):
        with multiprocessing.get_context(method).Pool(workers, begin, (adata,)) as pool:
            return collect([pool.apply_async(attempt_in_process, (name,)).get for name in names], timeout)

    return way


def collect(answers, timeout):
    """The answers that come in time."""
    end, found = time.monotonic() + timeout, []
    for get in answers:
        try:
            found.append(get(max(end - time.monotonic(), 0.1)))
        except (TimeoutError, multiprocessing.TimeoutError):
            found.append("hangs")
    return found


WAYS = {
    "threads": in_threads,
    "asyncio": in_asyncio,
    "fork": in_processes("fork"),
    "spawn": in_processes("spawn"),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tries", type=int, default=8, help="of each fit; others are called half as often")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--only", nargs="+", choices=CALLS, default=list(CALLS))
    parser.add_argument("--timeout", type=float, default=300, help="seconds for all calls of a way")
    args = parser.parse_args()
    sc.settings.verbosity = 0
    adata = prepared()
    serial = {name: run(name, adata) for name in args.only}
    tries = {name: args.tries if name in FITS else max(args.tries // 2, 1) for name in args.only}
    names = [name for i in range(args.tries) for name in args.only if i < tries[name]]
    rows, errors, threads = [], set(), torch.get_num_threads()
    for way in args.ways:
        expected = serial
        if way == "fork":
            torch.set_num_threads(1)
            with threadpool_limits(1, user_api="openmp"):
                expected = {name: run(name, adata) for name in args.only}
            torch.set_num_threads(threads)
        start = time.monotonic()
        found = WAYS[way](names, adata, args.workers, args.timeout)
        print(
            f"{way}: {time.monotonic() - start:.0f} s, {torch.get_num_threads()} threads of torch after it", flush=True
        )
        ends = {name: Counter() for name in args.only}
        for name, answer in zip(names, found, strict=True):
            known = answer.startswith("error") or answer == "hangs"
            end = answer.split(":")[0] if known else "same" if answer == expected[name] else "different"
            ends[name][end] += 1
            errors |= {f"{way}, {name}: {answer}"} if end == "error" else set()
        rows += [{"way": way, "function": name, "tries": tries[name], **ends[name]} for name in args.only]
    table = pd.DataFrame(rows).reindex(columns=["way", "function", "tries", "same", "different", "error", "hangs"])
    print(table.fillna(0).astype(dict.fromkeys(table.columns[2:], int)).to_string(index=False))
    print("\n".join(sorted(errors)))
    sys.exit(int((table["same"] != table["tries"]).any() or torch.get_num_threads() != threads))


if __name__ == "__main__":
    main()
