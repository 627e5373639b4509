"""Call every public function with odd values and odd data, and say how each call ended.

    python benchmarks/attack/calls.py [--seed 0] [--share 1] [--only tl.score] [--values tuned|fresh] [--show foreign]

For every function of pp, tl, pl, metrics, report and datasets there is a valid call on a small AnnData: in the table
`tests/contract/table.py` or, if it takes no AnnData, here. In it each argument is replaced by each odd value, and the
AnnData by each odd AnnData. A call ends in one of these ways:

returned   no error, and everything that was written is finite
refused    an error that sc_vaenb raises, whose text names the argument or what was given
unnamed    an error that sc_vaenb raises, whose text names neither
foreign    any other error: of a dependency, or of a slip in sc_vaenb
mutated    an error, and the AnnData is not what it was
silent     no error, and something that was written is not finite
slow       no end within a minute

Nothing is downloaded. Files go to a temporary folder.
"""

from __future__ import annotations

import argparse
import contextlib
import inspect
import linecache
import random
import signal
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import anndata as ad
import matplotlib
import numpy as np
import pandas as pd
import scanpy as sc
from scipy import sparse as sp

import sc_vaenb
from sc_vaenb import datasets, metrics, pl, pp, report, tl

sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "contract"))
import table
from table import FIT, small

matplotlib.use("Agg")
PACKAGE = str(Path(sc_vaenb.__file__).parent)
SECONDS = 60


# data


def calls(adata, folder):
    """The valid call of every function, by its name; what is called with the AnnData comes first in it."""
    x, labels, batch = adata.obsm["X_vae"], adata.obs["cell_type"].to_numpy(str), adata.obs["batch"].to_numpy(str)
    near = metrics.knn(x, 30)
    graph = metrics.fuzzy_graph(near)
    found: dict = {name: {"adata": adata} | row.call for name, row in table.rows(adata, folder).items()}
    found |= {
        "datasets.simulate": {"n_cells": 30, "n_genes": 20},
        "datasets.demo": {},
        "datasets.hcc": {"counts": folder / "none.gz", "metadata": folder / "none.gz"},
        "metrics.aggregate": {"values": {"nmi": 0.5, "ilisi": 0.5}},
        "metrics.best_nmi": {"scores": metrics.cluster_scores(graph, labels, resolutions=(1.0,))},
        "metrics.cluster_scores": {"graph": graph, "labels": labels, "resolutions": (1.0,)},
        "metrics.fuzzy_graph": {"neighbors": near},
        "metrics.graph_neighbors": {"graph": graph},
        "metrics.isolated_labels": {"embedding": x, "labels": labels, "batch": batch},
        "metrics.kbet_label": {"graph": graph, "batch": batch},
        "metrics.kbet_per_label": {"graph": graph, "labels": labels, "batch": batch},
        "metrics.knn": {"embedding": x, "k": 10},
        "metrics.leiden": {"graph": graph},
        "metrics.purity_kept": {"neighbors": near, "reference_neighbors": near, "labels": labels, "batch": batch},
        "metrics.score": {"embedding": x, "labels": labels, "batch": batch, "reference": x},
        "metrics.lisi": {"neighbors": near, "groups": batch},
    }
    arrays = {"neighbors": near, "embedding": x, "reference": x, "labels": labels, "batch": batch}
    for name in metrics.__all__:
        function = getattr(metrics, name)
        if inspect.isfunction(function) and f"metrics.{name}" not in found:
            found[f"metrics.{name}"] = {k: v for k, v in arrays.items() if k in inspect.signature(function).parameters}
    return found


def function_of(name):
    part, _, own = name.partition(".")
    return getattr(
        {"pp": pp, "tl": tl, "pl": pl, "metrics": metrics, "report": report, "datasets": datasets}[part], own
    )


# odd values


def values(adata):
    """Odd values to put in the place of any argument."""
    return {
        "None": None,
        "True": True,
        "0": 0,
        "-1": -1,
        "10**12": 10**12,
        "1.5": 1.5,
        "nan": float("nan"),
        "inf": float("inf"),
        "''": "",
        "'no such'": "no such",
        "'a/b'": "a/b",
        "'5'": "5",
        "mathtext": "$^_{$x",
        "controls": "a\x00\x07b",
        "bytes": b"batch",
        "[]": [],
        "['batch', 'cell_type']": ["batch", "cell_type"],
        "[None]": [None],
        "{}": {},
        "{'a': 1}": {"a": 1},
        "set": {"batch"},
        "np.int64(2)": np.int64(2),
        "np.float32(0.5)": np.float32(0.5),
        "np.str_('batch')": np.str_("batch"),
        "np.bool_(False)": np.bool_(False),
        "array of numbers": np.array([1.0, 2.0]),
        "Series": adata.obs["batch"],
        "DataFrame": adata.obs,
        "sparse": adata.X,
        "object()": object(),
    }


def fresh_values(adata):
    """Others, on which nothing was tuned."""
    n = adata.n_obs
    return {
        "-0.0": -0.0,
        "1e-320": 1e-320,
        "1e300": 1e300,
        "2**63": 2**63,
        "-inf": -np.inf,
        "1j": 1j,
        "Decimal": __import__("decimal").Decimal("0.5"),
        "Fraction": __import__("fractions").Fraction(1, 2),
        "' '": " ",
        "'..'": "..",
        "long": "x" * 5000,
        "arabic": "خلية",
        "surrogate": "\ud800",
        "newline": "a\nb",
        "type": int,
        "lambda": lambda x: x,
        "generator": (i for i in range(3)),
        "range(3)": range(3),
        "('a', 1)": ("a", 1),
        "[[1], [2, 3]]": [[1], [2, 3]],
        "[nan] * n": [float("nan")] * n,
        "['a'] * n": ["a"] * n,
        "zeros(n)": np.zeros(n),
        "ones((n, 2))": np.ones((n, 2)),
        "object array": np.array([object()] * n, dtype=object),
        "empty array": np.empty((0, 3)),
        "masked": np.ma.masked_all(n),
        "datetime64": np.datetime64("2024-01-01"),
        "pd.NA": pd.NA,
        "pd.NaT": pd.NaT,
        "Index": adata.obs_names,
        "Categorical": adata.obs["cell_type"].array,
        "RandomState": np.random.RandomState(0),
        "SeedSequence": np.random.SeedSequence(0),
        "AnnData": adata.copy(),
        "Path('.')": Path(),
        "0-d array": np.array(3),
        "n rows of text": np.array([["1", "2"]] * n),
    }


# odd data


class MuData:
    """As far as it looks like one of muon's."""

    def __init__(self, adata):
        self.mod, self.obs, self.obsm, self.uns, self.n_obs = {"rna": adata}, adata.obs, adata.obsm, {}, adata.n_obs


class SpatialData:
    """As far as it looks like one."""

    def __init__(self, adata):
        self.tables = {"table": adata}


def with_(adata, change):
    new = adata.copy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        change(new)
    return new


def renamed(adata, batch, label, gene):
    """The same with odd names of a batch, a label and a gene, everywhere."""
    new = adata.copy()
    text = {"batch_0": batch, "type_0": label}
    for column in ("batch", "cell_type"):
        new.obs[column] = new.obs[column].cat.rename_categories(lambda name: text.get(name, name))
    new.var_names = [gene if name == "gene_0" else name for name in new.var_names]
    for key in [key for key in new.uns if key not in {"truth"}]:
        del new.uns[key]
    new.layers["counts"] = adata.layers["counts"].copy()
    tl.cvae(new, "batch", **FIT)
    tl.factors(new)
    tl.interpolate(new, label, "type_1", groupby="cell_type", n_points=5)
    tl.posterior_check(new, n_samples=10)
    return new


def _dense(table):
    return np.asarray(table.toarray() if sp.issparse(table) else table, float)


def same_cells(new):
    row = new.layers["counts"][0].toarray()
    new.layers["counts"] = sp.csr_matrix(np.repeat(row, new.n_obs, axis=0))
    for key in ("X_pca", "X_vae", "X_two"):
        new.obsm[key] = np.repeat(_dense(new.obsm[key])[:1], new.n_obs, axis=0)


def data(adata, *, names=True):
    """Odd things to call a function with in the place of its AnnData; `names`: also fits with odd names."""

    def obs(**columns):
        return lambda new: [new.obs.__setitem__(name, value) for name, value in columns.items()]

    n = adata.n_obs
    some = np.where(np.arange(n) % 3 == 0, None, adata.obs["batch"].astype(object))
    mixed = pd.Series([1, "1"] * (n // 2), index=adata.obs_names, dtype=object)

    def twice(slot):
        def change(new):
            table = getattr(new, slot)
            setattr(new, slot, pd.concat([table, table], axis=1))

        return change

    found = {
        "None": None,
        "a path": "data.h5ad",
        "array": adata.X.toarray(),
        "DataFrame": adata.obs,
        "list": [adata, adata],
        "dict": {"rna": adata},
        "MuData": MuData(adata),
        "SpatialData": SpatialData(adata),
        "Raw": with_(adata, lambda new: setattr(new, "raw", new)).raw,
        "class": ad.AnnData,
        "empty AnnData": ad.AnnData(),
        "no cells": adata[:0].copy(),
        "no genes": adata[:, :0].copy(),
        "1 cell": adata[:1].copy(),
        "2 cells": adata[:2].copy(),
        "3 cells": adata[:3].copy(),
        "12 cells": adata[:12].copy(),
        "1 gene": adata[:, :1].copy(),
        "2 genes": adata[:, :2].copy(),
        "a view": adata[10:60],
        "cells named twice": with_(adata, lambda new: setattr(new, "obs_names", ["a"] * n)),
        "genes named twice": with_(adata, lambda new: setattr(new, "var_names", ["a"] * new.n_vars)),
        "obs columns twice": with_(adata, twice("obs")),
        "var columns twice": with_(adata, twice("var")),
        "batch missing for some": with_(adata, obs(batch=some)),
        "batch missing for all": with_(adata, obs(batch=np.nan, cell_type=np.nan)),
        "one batch": with_(adata, obs(batch="a")),
        "one label": with_(adata, obs(cell_type="a")),
        "a batch per cell": with_(adata, obs(batch=[str(i) for i in range(n)])),
        "a label per cell": with_(adata, obs(cell_type=[str(i) for i in range(n)])),
        "batches are labels": with_(adata, obs(batch=adata.obs["cell_type"])),
        "names equal as text": with_(adata, obs(batch=mixed, cell_type=mixed)),
        "numbers as labels": with_(adata, obs(batch=np.arange(n) % 2, cell_type=np.arange(n) % 3)),
        "fractions as labels": with_(adata, obs(batch=np.arange(n) / 7, cell_type=np.arange(n) / 7)),
        "lists as labels": with_(adata, obs(batch=[["a"]] * n, cell_type=[["a"]] * n)),
        "bools as labels": with_(adata, obs(batch=np.arange(n) % 2 == 0, cell_type=np.arange(n) % 2 == 0)),
        "dates as labels": with_(adata, obs(batch=pd.Timestamp("2024-01-01"), cell_type=pd.Timestamp("2024-01-01"))),
        "cells alike": with_(adata, same_cells),
        "counts all zero": with_(adata, lambda new: new.layers.__setitem__("counts", new.X * 0)),
        "counts negative": with_(adata, lambda new: new.layers.__setitem__("counts", -new.X)),
        "counts nan": with_(adata, lambda new: new.layers.__setitem__("counts", new.X * np.nan)),
        "no layers": with_(adata, lambda new: new.layers.clear()),
        "no X": with_(adata, lambda new: (new.layers.clear(), setattr(new, "X", None))),
        "no uns": with_(adata, lambda new: new.uns.clear()),
        "no obsm": with_(adata, lambda new: new.obsm.clear()),
        "no obs": with_(adata, lambda new: setattr(new, "obs", new.obs[[]])),
        "embeddings nan": with_(
            adata,
            lambda new: [new.obsm.__setitem__(k, _dense(new.obsm[k]) * np.nan) for k in list(new.obsm)],
        ),
        "embeddings of one dimension": with_(
            adata, lambda new: [new.obsm.__setitem__(k, _dense(new.obsm[k])[:, :1]) for k in list(new.obsm)]
        ),
        "embeddings of text": with_(
            adata, lambda new: [new.obsm.__setitem__(k, np.array([["a", "b", "c"]] * n)) for k in list(new.obsm)]
        ),
    }
    if not names:
        return found
    found |= {
        "mathtext": renamed(adata, "$^_{$x", "$\\frac$ & <b>", "$_$"),
        "controls": renamed(adata, "a\x07\x1bb", "c\td\ne", "\x08"),
        "long names": renamed(adata, "b" * 3000, "l" * 3000, "g" * 3000),
        "underscores": renamed(adata, "_nolegend_", "_", "_x"),
        "right to left": renamed(adata, "خلية", "עברית", "جين"),
    }
    found["nameless"] = with_(
        adata, lambda new: new.obs.__setitem__("batch", new.obs["batch"].cat.rename_categories(["", "b"]))
    )
    return found


# a call


def fingerprint(value):
    """Everything in an AnnData, as nested dicts of bytes and plain values."""
    if hasattr(value, "obsm") and hasattr(value, "layers"):
        names = ("obs", "var", "obsm", "varm", "obsp", "varp", "layers", "uns", "X")
        return {name: fingerprint(getattr(value, name)) for name in names}
    if isinstance(value, pd.DataFrame):
        columns = [
            (str(name), str(value.iloc[:, i].dtype), repr(value.iloc[:, i].tolist())) for i, name in enumerate(value)
        ]
        return [value.index.astype(object).tolist(), columns]
    if hasattr(value, "items") and not isinstance(value, pd.Series):
        return {key: fingerprint(part) for key, part in value.items() if key is not None}
    if sp.issparse(value):
        return [
            type(value).__name__,
            value.shape,
            *(getattr(value, a).tobytes() for a in ("data", "indices", "indptr")),
        ]
    if isinstance(value, np.ndarray):
        return [str(value.dtype), value.shape, repr(value.tolist()) if value.dtype.hasobject else value.tobytes()]
    return repr(value)


MAY_BE_NAN = {"novelty_p", "cell_type_confidence", "batch_confidence"}  # "cannot be told", as their docs say


def written_nan(was, after):
    """Places in obs, obsm and layers that a call wrote, and that hold what is not finite."""
    found = []
    for slot in ("obs", "obsm", "layers"):
        for name in getattr(after, slot):
            part = getattr(after, slot)[name] if slot != "obs" else after.obs.loc[:, name]
            if slot == "obs":
                if (
                    isinstance(part, pd.DataFrame)
                    or name in MAY_BE_NAN
                    or (name, str(part.dtype), repr(part.tolist())) in was["obs"][1]
                ):
                    continue
            elif name in was[slot] and was[slot][name] == fingerprint(part):
                continue
            numbers = part.data if sp.issparse(part) else np.asarray(part)
            if numbers.dtype.kind == "f" and not np.isfinite(numbers).all():
                found.append(f"{slot}[{name!r}]")
    return found


def draw(axes):
    """Render a plot as SVG, which must be valid XML."""
    import io

    import matplotlib.pyplot as plt

    for number in plt.get_fignums():
        file = io.BytesIO()
        plt.figure(number).savefig(file, format="svg", dpi=30)
        ElementTree.fromstring(file.getvalue())


def is_ours(error):
    """Whether the last frame of an error is a `raise` in sc_vaenb."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    line = linecache.getline(frame.filename, frame.lineno or 0)
    return frame.filename.startswith(PACKAGE) and line.strip().startswith("raise")


class Slow(BaseException):
    """A call took too long."""


def _stop(*_):
    raise Slow


def call(name, arguments, adata=None, clue=(), was=None):
    """How a call ends, and its error; `adata` must be as it `was` (a fingerprint) if it does not return."""
    import matplotlib.pyplot as plt

    if adata is not None and was is None:
        was = fingerprint(adata)
    signal.signal(signal.SIGALRM, _stop)
    signal.alarm(SECONDS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = function_of(name)(**arguments)
            if name.startswith("pl."):
                draw(result)
        if name == "report.write":
            text = Path(result[0]).read_text(encoding="utf-8")
            if any(ord(letter) < 32 and letter not in "\t\n\r" for letter in text):
                return "silent", "control characters in the page"
        bad = [] if adata is None else written_nan(was, adata)
        if isinstance(result, np.ndarray) and result.dtype.kind == "f" and not np.isfinite(result).all():
            bad.append("result")
        return ("silent", ", ".join(bad)) if bad else ("returned", "")
    except Slow:
        return "slow", ""
    except Exception as error:
        signal.alarm(0)
        said = f"{type(error).__name__}: {error}"
        frame = traceback.extract_tb(error.__traceback__)[-1]
        if adata is not None and fingerprint(adata) != was:
            return "mutated", said
        if not is_ours(error):
            return "foreign", f"{said[:300]} [{Path(frame.filename).name}:{frame.lineno}]"
        named = any(str(part) in said for part in clue) if clue else True
        return "refused" if named else "unnamed", said
    finally:
        signal.alarm(0)
        plt.close("all")


def attack(adata, folder, *, seed=0, share=1.0, only="", odd_values=values, odd_data=data):
    """Call everything; yield (function, what was odd, how it ended, the error)."""
    draws = random.Random(seed)
    others = odd_data(adata)
    was = fingerprint(adata)
    for name, base in calls(adata, folder).items():
        if not name.startswith(only):
            continue
        parameters = inspect.signature(function_of(name)).parameters
        new, end = None, ""
        for argument in parameters:
            for label, value in odd_values(adata).items():
                if (argument in {"show", "fig"} and value is None) or draws.random() > share:
                    continue
                if new is None or end not in {"refused", "unnamed", "foreign"}:
                    new = adata.copy()  # else it is as it was
                changed = new if "adata" in base and argument != "adata" else None
                arguments = base | ({"adata": new} if "adata" in base else {}) | {argument: value}
                if name.startswith("pl.") and argument != "show":
                    arguments["show"] = False
                clue = (argument, label, repr(value)[:10], str(value)[:10] or "''")
                end, said = call(name, arguments, changed, clue, was)
                yield name, f"{argument}={label}", end, said
        for place in {"adata", "reference"} & set(parameters) if "adata" in base else ():
            if not isinstance(base.get(place), ad.AnnData):
                continue
            for label, value in others.items():
                if draws.random() > share:
                    continue
                arguments = (
                    base
                    | {"adata": base["adata"].copy()}
                    | {place: value.copy() if isinstance(value, ad.AnnData) and not value.is_view else value}
                )
                if name.startswith("pl."):
                    arguments["show"] = False
                changed = arguments["adata"] if isinstance(arguments["adata"], ad.AnnData) else None
                yield name, f"{place}: {label}", *call(name, arguments, changed)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--share", type=float, default=1.0, help="share of the calls to make, drawn at random")
    parser.add_argument("--only", default="", help="functions whose name begins so, such as tl. or tl.score")
    parser.add_argument("--values", choices=["tuned", "fresh"], default="tuned")
    parser.add_argument("--no-data", action="store_true", help="odd values alone")
    parser.add_argument("--show", nargs="*", default=["foreign", "mutated", "silent", "slow", "unnamed"])
    options = parser.parse_args()
    sc.settings.verbosity = 0
    ways = ("returned", "refused", "unnamed", "foreign", "mutated", "silent", "slow")
    counts: dict[str, Counter] = {}
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        odd_values = values if options.values == "tuned" else fresh_values
        adata = small(whole=not options.only.startswith("metrics"))
        ends = attack(
            adata, Path(folder), seed=options.seed, share=options.share, only=options.only, odd_values=odd_values,
            odd_data=(lambda _: {}) if options.no_data else data,
        )  # fmt: skip
        for name, odd, end, said in ends:
            counts.setdefault(name, Counter())[end] += 1
            if end in options.show:
                print(f"{end:8} {name}({odd}) {said[:400]}", flush=True)
    print(f"\n{'function':28}" + "".join(f"{way:>10}" for way in ways))
    for name, row in [*counts.items(), ("all", sum(counts.values(), Counter()))]:
        print(f"{name:28}" + "".join(f"{row[way]:10}" for way in ways))


if __name__ == "__main__":
    sys.exit(main())
