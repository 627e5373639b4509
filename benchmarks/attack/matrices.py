"""Odd and invalid matrices against every function that reads counts.

    python benchmarks/attack/matrices.py            # about 600 calls
    python benchmarks/attack/matrices.py --most 50

Each call is a process of its own where it could end the process. An outcome is `same` (what the function gives for the
plain matrix), `refused` (an error of this package that names the place), or a failure: `other result`, `foreign` (an
error from elsewhere), `changed` (the AnnData is not what it was), `died`.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import sys
import warnings
from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np
from scipy import sparse as sp

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

TYPES = {"uint8": np.uint8, "int16": np.int16, "uint64": np.uint64, "bool": bool, "float64": np.float64}
FAST = {"n_latent": 3, "hidden": (8,), "n_steps": 2, "device": "cpu"}


def plain():
    import sc_vaenb

    adata = sc_vaenb.datasets.simulate(120, 40, n_types=3, n_batches=2, mean_depth=100, rng=0)
    adata.X = sp.csr_matrix(adata.X, dtype=np.float32)
    adata.layers["counts"] = adata.X.copy()
    return adata


def put(matrix, **arrays):
    for name, values in arrays.items():
        setattr(matrix, name, values)
    return matrix


def halves(matrix, dtype):
    """Every entry as two, which add up to it."""
    data = np.repeat((matrix.data // 2).astype(dtype), 2)
    data[1::2] = matrix.data - matrix.data // 2
    return type(matrix)((data, np.repeat(matrix.indices, 2), 2 * matrix.indptr), shape=matrix.shape)


def at(values, place, value):
    values = values.copy()
    values[place] = value
    return values


ODD = {  # the same counts
    **{f"twice, {name}": lambda m, t=kind: halves(m, t) for name, kind in TYPES.items() if name != "bool"},
    "big-endian": lambda m: put(m, data=m.data.astype(">f4")),
    "big-endian indices": lambda m: put(m, indices=m.indices.astype(">i4"), indptr=m.indptr.astype(">i8")),
    "float16": lambda m: put(m, data=m.data.astype(np.float16)),
    "float128": lambda m: m.astype(np.longdouble),
    "int64 indices": lambda m: put(m, indices=m.indices.astype(np.int64), indptr=m.indptr.astype(np.int64)),
    "noise": lambda m: put(m, data=np.expm1(np.log1p(m.data))),
    "noise, float64": lambda m: m.astype(np.float64) * (1 + 1e-9),
}
WRONG = {
    **{f"index {v}": lambda m, v=v: put(m, indices=at(m.indices, 9, v)) for v in (-1, 120, 10**6, 2**31 - 1, -(2**31))},
    "from 1": lambda m: put(m, indices=m.indices + 1),
    "indptr falls": lambda m: put(m, indptr=at(m.indptr, 3, m.nnz)),
    "indptr negative": lambda m: put(m, indptr=at(m.indptr, 0, -5)),
    "indptr too far": lambda m: put(m, indptr=at(m.indptr, -1, 10**6)),
    "indptr short": lambda m: put(m, indptr=m.indptr[:-2]),
    "indptr long": lambda m: put(m, indptr=np.r_[m.indptr, m.nnz]),
    "values short": lambda m: put(m, data=m.data[:-3]),
    "indices short": lambda m: put(m, indices=m.indices[:-3]),
    "no entries": lambda m: put(m, data=m.data[:0], indices=m.indices[:0]),
    "indices float": lambda m: put(m, indices=m.indices.astype(float)),
    "nan": lambda m: put(m, data=at(m.data, -5, np.nan)),
    "inf": lambda m: put(m, data=at(m.data, -5, np.inf)),
    "negative": lambda m: put(m, data=at(m.data, -5, -1)),
    "1.001": lambda m: put(m, data=at(m.data, -5, 1.001)),
    "text": lambda m: put(m, data=m.data.astype(str)),
    "complex": lambda m: put(m, data=m.data.astype(complex)),
    "objects": lambda m: put(m, data=m.data.astype(object)),
}


def readers():
    from sc_vaenb import pp, tl

    return {
        "pp.prepare": lambda a: pp.prepare(a, layer="counts"),
        "tl.vae": lambda a: tl.vae(a, key_added="new", **FAST),
        "tl.cvae": lambda a: tl.cvae(a, "batch", key_added="new", **FAST),
        "tl.embed": lambda a: tl.embed(a, key_added="new"),
        "tl.normalized": tl.normalized,
        "tl.corrected": tl.corrected,
        "tl.differential": lambda a: tl.differential(a, "cell_type"),
        "tl.importance": tl.importance,
        "tl.factors": tl.factors,
        "tl.map_query": lambda a: tl.map_query(a, plain_fitted(), n_steps=1),
        "tl.harmony": lambda a: tl.harmony(a, "batch"),
    }


@cache
def fitted_once():
    from sc_vaenb import tl

    return tl.cvae(plain(), "batch", copy=True, **FAST)


def plain_fitted():
    return fitted_once().copy()


def outcome(reader: str, kind: str, name: str, view: bool) -> str:
    warnings.simplefilter("ignore")
    import scanpy as sc
    from conftest import contents

    sc.settings.verbosity = 0
    function = readers()[reader]
    adata = plain_fitted()
    expected = adata.copy() if not view else adata[10:, :].copy()
    if name in ODD:
        function(expected)
    spoil = (ODD | WRONG)[name]
    adata.layers._data["counts"] = spoil(sp.csr_matrix(plain().X).asformat(kind))
    adata = adata[10:, :] if view else adata
    before = None if view else contents(adata)
    try:
        function(adata)
    except (ValueError, TypeError, KeyError) as error:
        text = str(error.args[0]) if error.args else ""
        if not view and contents(adata) != before:
            return "changed"
        return "refused" if "layers['counts']" in text else f"foreign: {type(error).__name__}: {text[:80]}"
    except BaseException as error:  # whatever comes, which is what is looked for
        return f"foreign: {type(error).__name__}: {str(error)[:80]}"
    if name in WRONG:
        fractions = name == "1.001" and reader == "tl.harmony"  # its PCA takes log expression: fractions are right
        return "same" if fractions else "accepted"
    same = all(np.allclose(adata.obsm[key], expected.obsm[key], atol=1e-3, equal_nan=True) for key in expected.obsm)
    return "same" if same else "other result"


def work(connection, calls) -> None:
    for call in calls:
        connection.send(outcome(*call))


def main(arguments: list[str] | None = None) -> Counter:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--most", type=int, default=600, help="calls, drawn at random where there are more")
    parser.add_argument("--rng", type=int, default=0)
    options = parser.parse_args(arguments)
    calls = [
        (reader, kind, name, view)
        for reader in readers()
        for kind in ("csr", "csc")
        for name in ODD | WRONG
        for view in (False, True)
    ]
    random.Random(options.rng).shuffle(calls)
    calls = calls[: options.most]
    context, found, counts = multiprocessing.get_context("spawn"), [], Counter()
    while len(found) < len(calls):  # a process that dies takes one call with it
        ours, theirs = context.Pipe(False)
        process = context.Process(target=work, args=(theirs, calls[len(found) :]))
        process.start()
        theirs.close()
        try:
            while len(found) < len(calls):
                found.append(ours.recv())
        except EOFError:
            found.append("died")
        process.join()
    for call, result in zip(calls, found, strict=True):
        wanted = {"same"} if call[2] in ODD else {"refused"}
        counts[result.partition(":")[0]] += 1
        if result not in wanted:
            print(*call[:3], "of a view" if call[3] else "", "->", result)
    print(f"{len(calls)} calls:", ", ".join(f"{n} {name}" for name, n in counts.most_common()))
    return counts


if __name__ == "__main__":
    main()
