"""Attack the stored models: tampered records, model files, checkpoints and results, each read by what reads it.

Every case changes one thing in a record (each path of it: taken away, of another type, NaN, huge, of another shape,
nested, of odd text), in a model file (bytes flipped, cut, header edited, arrays exchanged) or in the state of a fit,
and calls the functions that read it. What comes out is counted:

refused: one error of this package's own words
same: accepted, and every result is finite and that of the record before
different: accepted, and finite, but not the same, as nothing can tell the values from those of another fit
foreign: an error of another program's words
not finite: a result with NaN or infinity

`python benchmarks/attack/records.py --cases 2000` prints the counts by kind, each foreign error, and (`--traced`) the
largest memory that a case took. `--memory` has large files read, each in a process of its own, and prints by how many
MB that process grew.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import json
import subprocess
import sys
import tempfile
import tracemalloc
import warnings
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anndata as ad
import matplotlib
import numpy as np
import pandas as pd
import scanpy as sc
from safetensors.numpy import load_file, save

import sc_vaenb

matplotlib.use("Agg")

OURS = ("damaged", "holds no model", "is not in adata", "holds no", "no finite numbers", "has the format", "cut off")
OURS += (
    "was changed since",
    "not possible",
    "is not known",
    "are not in var_names",
    "lacks",
    "not in obs",
    "holds the",
)
OURS += ("is not a file", "knows no", "does not say", "not fitted on", "Choose", "is not available here")
FAST = {"n_latent": 3, "hidden": (8,), "n_steps": 20, "device": "cpu"}

Case = tuple[str, Callable[[], None]]  # a name, and what is done


# What is attacked


def fitted() -> ad.AnnData:
    """A small model of everything that a model can have, and the results that are made of it."""
    adata = sc_vaenb.datasets.simulate(120, 40, n_types=2, n_batches=2, mean_depth=300, rng=0)
    adata.layers["counts"] = adata.X.copy()
    rng = np.random.default_rng(0)
    adata.obs["score"], adata.obs["chemistry"] = rng.normal(size=120), rng.choice(["v2", "v3"], 120)
    adata.obsm["protein"] = rng.poisson(5, (120, 2)).astype(float)
    more = {"covariate_keys": ["score", "chemistry"], "protein_key": "protein", "labels_key": "cell_type"}
    sc_vaenb.tl.cvae(adata, "batch", encode_batch=True, prior="mog", n_components=2, adversary=0.1, **more, **FAST)
    return adata


def with_results(adata: ad.AnnData) -> ad.AnnData:
    sc_vaenb.tl.factors(adata)
    sc_vaenb.tl.interpolate(adata, "type_0", "type_1", groupby="cell_type", n_points=5)
    sc_vaenb.tl.posterior_check(adata, n_samples=10)
    sc_vaenb.tl.score(adata, ["X_vae"], batch_key="batch", label_key="cell_type")
    values = adata.uns["scores"]["values"]
    methods = pd.DataFrame({"method": ["CVAE"], "seed": [0], "embedding": ["X_vae"], "seconds": [1.0]})
    adata.uns["compare"] = {
        "scores": copy.deepcopy(adata.uns["scores"]),
        "methods": methods,
        "verdict": "Best by the total score: CVAE (0.500).",
        "params": {"batch_key": "batch", "label_key": "cell_type", "n_seeds": 1, "resolution": 1.0, "rng": 0},
        "failed": {},
        "made": pd.DataFrame({"made_from": ["a"], "checksum": [1], "seconds": [1.0]}, index=["vae"]),
    }
    adata.obsm["X_umap_vae"], adata.obs["leiden_vae"] = adata.obsm["X_vae"][:, :2], adata.obs["cell_type"]
    trials = {"trial": [0, 1], "beta": [0.5, 0.1], "prior": ["normal", "mog"], "score": [0.5, 0.6], "kept": [0.5, 0.6]}
    trials |= {"mixed": [0.5, 0.6], "default": [True, False], "chosen": [False, True]}
    seeds = pd.DataFrame({"trial": [0, 1], "seed": [1, 1], "score": [0.5, 0.6]})
    adata.uns["tune"] = {"trials": pd.DataFrame(trials), "seeds": seeds, "verdict": "Because.\nRecommended call: f()"}
    del values
    return adata


# How it is changed


def odd_values(value: Any) -> Iterator[tuple[str, Any]]:
    """What may stand in the place of a value."""
    yield from (
        ("None", None),
        ("a number", -7),
        ("NaN", float("nan")),
        ("infinity", float("inf")),
        ("text", "x/\0\ud800"),
    )
    yield from (
        ("huge", 10**30),
        ("a list", [1, [2, "a"]]),
        ("a mapping", {"a": {"b": 1}}),
        ("empty", ""),
        ("True", True),
    )
    yield from (("objects", np.array([None, {}], object)), ("complex", np.ones(2, complex)), ("bytes", b"\xff\xfe"))
    if isinstance(value, str) and value.startswith("{"):
        yield from odd_json(value)
    if isinstance(value, np.ndarray):
        yield from odd_arrays(value)
    if isinstance(value, pd.DataFrame):
        yield from odd_tables(value)


def odd_arrays(value: np.ndarray) -> Iterator[tuple[str, Any]]:
    yield "another shape", np.concatenate([value.reshape(-1), value.reshape(-1)[:1]])
    yield "an axis more", value[None]
    yield "cut", value[:-1] if value.ndim else np.ones(3, np.float32)
    yield "no value", value.reshape(-1)[:0]
    if value.dtype.kind in "fiu":
        for name, one in (("NaN in it", np.nan), ("infinity in it", np.inf), ("1e30 in it", 1e30), ("-1 in it", -1)):
            changed = value.astype(np.float64 if value.dtype.kind != "f" else value.dtype)
            changed.reshape(-1)[-1:] = one
            yield name, changed
            with np.errstate(invalid="ignore"):  # of numbers that the type cannot hold: then it is another one
                cast = np.nan_to_num(changed).clip(-(2**31), 2**31).astype(value.dtype)
            yield f"{name}, of its type", cast
        yield "float64", value.astype(np.float64)
        yield "float16", value.astype(np.float16)
        with np.errstate(invalid="ignore"):
            yield "int64", value.astype(np.int64)
        yield "text", value.astype(str)
        yield "negative", -np.abs(value) - 1
        yield "huge", np.full_like(value, 1e9)
        yield "zero", np.zeros_like(value)
        yield "big-endian", value.astype(value.dtype.newbyteorder(">"))
    elif value.dtype == object and value.size:
        for name, one in (
            ("a number in it", 3),
            ("twice the same", value.reshape(-1)[-1]),
            ("NUL", "a\0b"),
            ("empty", ""),
        ):
            changed = value.copy()
            changed.reshape(-1)[0] = one
            yield name, changed


def odd_tables(value: pd.DataFrame) -> Iterator[tuple[str, Any]]:
    yield "no rows", value.iloc[:0]
    yield "rows twice", pd.concat([value, value])
    yield "no columns", value.iloc[:, :0]
    yield "a row name of another type", value.set_axis([object() for _ in range(len(value))])
    for column in value:
        yield f"without {column}", value.drop(columns=column)
        for name, one in (("None", None), ("NaN", np.nan), ("infinity", np.inf), ("text", "a\0"), ("-1e30", -1e30)):
            yield f"{column} {name}", value.assign(**{column: one})
        yield f"{column} of lists", value.assign(**{column: [[] for _ in range(len(value))]})


def odd_json(text: str) -> Iterator[tuple[str, Any]]:
    """One field of a configuration after the other."""
    yield from (("cut", text[:-5]), ("deeply nested", "[" * 100_000), ("an empty object", "{}"), ("a list", "[1]"))
    config = json.loads(text)
    for path, value in list(paths(config)):
        for name, one in (
            *(("taken away", None), ("10**9", 10**9), ("10**30", 10**30), ("-1", -1), ("0", 0), ("NaN", float("nan"))),
            *(
                ("a list", [10**9]),
                ("many", [1] * 10_000),
                ("text", "x\0"),
                ("a mapping", {}),
                ("True", True),
                ("1.5", 1.5),
            ),
        ):
            changed = copy.deepcopy(config)
            change(changed, path, one, away=name == "taken away")
            yield f"{'/'.join(map(str, path))} {name}", json.dumps(changed)
        del value
    yield "a field more", json.dumps(config | {"zzz": 1})


def paths(value: Any, before: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """The way to each part of nested dicts and lists, and the part."""
    parts = value.items() if isinstance(value, dict) else enumerate(value[:2]) if isinstance(value, list) else ()
    for name, part in parts:
        yield (*before, name), part
        yield from paths(part, (*before, name))


def change(value: Any, path: tuple[Any, ...], one: Any, *, away: bool = False) -> None:
    for name in path[:-1]:
        value = value[name]
    if away:
        del value[path[-1]]
    else:
        value[path[-1]] = one


def tampered(record: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """The kind of change, what it is, and the record after it."""
    for path, value in list(paths(record)):
        where = "/".join(map(str, path))
        for name, one in (("taken away", None), *odd_values(value)):
            changed = copy.deepcopy(record)
            change(changed, path, one, away=name == "taken away")
            yield path[0], f"{where}: {name}", changed


# What reads it


def readers_of_a_model(adata: ad.AnnData) -> dict[str, Callable[[], Any]]:
    tl, some = sc_vaenb.tl, {"device": "cpu"}
    return {
        "embed": lambda: tl.embed(adata, key_added="again", **some),
        "normalized": lambda: tl.normalized(adata, genes=list(adata.var_names[:3]), key_added="n", **some),
        "corrected": lambda: tl.corrected(adata, genes=list(adata.var_names[:3]), key_added="c", **some),
        "differential": lambda: tl.differential(adata, "cell_type", n_samples=1, **some),
        "sample": lambda: tl.sample(adata, 5, **some),
        "prior": lambda: tl.sample(adata, 5, source="prior", **some),
        "denoised_protein": lambda: tl.denoised_protein(adata, **some),
        "map_query": lambda: tl.map_query(adata[:20].copy(), adata, n_steps=1, **some),
        "importance": lambda: tl.importance(adata, max_cells=5, **some),
        "factors": lambda: tl.factors(adata, max_cells=5, **some),
        "interpolate": lambda: tl.interpolate(adata, "type_0", "type_1", groupby="cell_type", n_points=3, **some),
        "posterior_check": lambda: tl.posterior_check(adata, n_samples=10, **some),
        "export_model": lambda: tl.export_model(adata, Path(tempfile.gettempdir()) / "attack.safetensors", force=True),
        "history": lambda: sc_vaenb.pl.history(adata, show=False),
    }


def readers_of_results(adata: ad.AnnData) -> dict[str, dict[str, Callable[[], Any]]]:
    pl = sc_vaenb.pl
    return {
        "vae_factors": {
            "factors": lambda: pl.factors(adata, show=False),
            "latent": lambda: pl.latent(adata, show=False),
        },
        "interpolation": {"interpolation": lambda: pl.interpolation(adata, show=False)},
        "posterior_check": {"posterior_check": lambda: pl.posterior_check(adata, show=False)},
        "tune": {"tune": lambda: pl.tune(adata, show=False)},
        "scores": {
            "scores": lambda: pl.scores(adata, "scores", show=False),
            "tradeoff": lambda: pl.tradeoff(adata, "scores", show=False),
        },
        "compare": {
            "scores": lambda: pl.scores(adata, show=False),
            "tradeoff": lambda: pl.tradeoff(adata, show=False),
            "compare": lambda: pl.compare(adata, show=False),
            "confusion": lambda: pl.confusion(adata, show=False),
        },
    }


def numbers(adata: ad.AnnData) -> dict[str, np.ndarray]:
    """What the readers wrote, to be compared."""
    found = {
        f"obsm/{name}": np.asarray(adata.obsm[name], float) for name in adata.obsm if name not in {"X_vae", "protein"}
    }
    if "differential" in adata.uns:
        found["differential"] = adata.uns["differential"]["table"].select_dtypes("number").to_numpy()
    return found


class Tally:
    """How cases ended, by kind, and what each foreign error was."""

    def __init__(self) -> None:
        self.counts: dict[str, Counter[str]] = defaultdict(Counter)
        self.foreign: list[str] = []
        self.different: list[str] = []
        self.not_finite: list[str] = []
        self.memory, self.largest = 0.0, ""

    def add(self, kind: str, name: str, call: Callable[[], Any], expected: Any = None) -> None:
        before = tracemalloc.get_traced_memory()[0] if tracemalloc.is_tracing() else 0
        if tracemalloc.is_tracing():
            tracemalloc.reset_peak()
        try:
            with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
                warnings.simplefilter("ignore")
                found = call()
        except Exception as error:
            text = str(error)
            good = isinstance(error, KeyError | TypeError | ValueError | FileNotFoundError) and any(
                s in text for s in OURS
            )
            self.counts[kind]["refused" if good else "foreign"] += 1
            if not good:
                self.foreign.append(f"{kind}: {name}: {type(error).__name__}: {text[:200]!r}")
        else:
            self._accepted(kind, name, found, expected)
        if tracemalloc.is_tracing():
            peak = (tracemalloc.get_traced_memory()[1] - before) / 1e6
            if peak > self.memory:
                self.memory, self.largest = peak, f"{kind}: {name}"

    def _accepted(self, kind: str, name: str, found: Any, expected: Any) -> None:
        if not isinstance(found, dict) or not isinstance(expected, dict):
            self.counts[kind]["same"] += 1
            return
        shared = found.keys() & expected.keys()
        if any(not np.isfinite(found[part]).all() for part in shared if np.isfinite(expected[part]).all()):
            self.counts[kind]["not finite"] += 1
            self.not_finite.append(f"{kind}: {name}")
        elif all(
            found[part].shape == expected[part].shape and np.allclose(found[part], expected[part]) for part in shared
        ):
            self.counts[kind]["same"] += 1
        else:
            self.counts[kind]["different"] += 1
            self.different.append(f"{kind}: {name}")

    def table(self) -> pd.DataFrame:
        columns = ["refused", "same", "different", "foreign", "not finite"]
        return pd.DataFrame({k: {c: v[c] for c in columns} for k, v in self.counts.items()}).T.astype(int)


def attack_records(adata: ad.AnnData, tally: Tally, share: float, rng: np.random.Generator) -> None:
    """The record of a model, changed at every path; each case is read by one function in turn, and by embed."""
    names = list(readers_of_a_model(adata))
    expected = {}
    for reader in names:
        whole = adata.copy()
        readers_of_a_model(whole)[reader]()
        expected[reader] = numbers(whole)
    turn = 0
    for kind, name, record in tampered(adata.uns["vae"]):
        if rng.random() > share:
            continue
        reader = names[turn % len(names)]
        turn += 1
        changed = adata.copy()
        changed.uns["vae"] = record

        def read(changed: ad.AnnData = changed, reader: str = reader) -> dict[str, np.ndarray]:
            readers_of_a_model(changed)[reader]()
            return numbers(changed)

        tally.add(f"record, {kind}", f"{name}, by {reader}", read, expected[reader])
        matplotlib.pyplot.close("all")


def attack_results(adata: ad.AnnData, tally: Tally, share: float, rng: np.random.Generator) -> None:
    for key in readers_of_results(adata):
        names = list(readers_of_results(adata)[key])
        for at, (_, name, record) in enumerate(tampered(adata.uns[key])):
            if rng.random() > share:
                continue
            changed = adata.copy()
            changed.uns[key] = record
            reader = names[at % len(names)]
            tally.add(f"results, {key}", f"{name}, by {reader}", readers_of_results(changed)[key][reader])
            matplotlib.pyplot.close("all")


def odd_files(content: bytes, rng: np.random.Generator, n: int) -> Iterator[tuple[str, bytes]]:
    """A model file, changed."""
    n_header = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + n_header])
    for at in rng.integers(0, len(content), n):
        flipped = bytearray(content)
        flipped[at] ^= 1 << int(rng.integers(8))
        yield f"bit flipped at {at}", bytes(flipped)
    for at in rng.integers(8, 8 + n_header, n):
        flipped = bytearray(content)
        flipped[at] = int(rng.integers(256))
        yield f"byte of the header at {at}", bytes(flipped)
    for at in rng.integers(0, len(content), n // 2):
        yield f"cut at {at}", content[:at]
    for name, length in (("a header of 0", 0), ("a header of 2^63", 2**63), ("a header of all", len(content))):
        yield name, length.to_bytes(8, "little") + content[8:]
    yield "empty", b""
    yield "longer", content + bytes(1000)
    texts = header["__metadata__"]
    for name, value in texts.items():
        choices = {
            one[:20]: one for one in ("", "null", "[]", "{}", "3", "NaN", "[" * 50_000, '{"a": 1}', '["a"]', "x\0")
        }
        choices |= {what: one for what, one in odd_values(value) if isinstance(one, str) and "\ud800" not in one}
        for what, one in choices.items():
            yield f"{name}: {what}", with_header(content, texts | {name: one})
        yield f"without {name}", with_header(content, {k: v for k, v in texts.items() if k != name})


def with_header(content: bytes, texts: dict[str, str]) -> bytes:
    """The same arrays with other texts, and with the checksum that belongs to these."""
    from sc_vaenb._model_file import checksum

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "a").write_bytes(content)
        weights = load_file(Path(folder) / "a")
    stated = {k: v for k, v in texts.items() if k != "sha256"}
    return save(weights, {**stated, "sha256": checksum(weights, stated)} if "sha256" in texts else stated)


def odd_arrays_of_files(content: bytes) -> Iterator[tuple[str, bytes]]:
    """Files whose checksum is right and whose arrays are not."""
    from sc_vaenb._model_file import checksum

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "a").write_bytes(content)
        weights = load_file(Path(folder) / "a")
    n_header = int.from_bytes(content[:8], "little")
    texts = json.loads(content[8 : 8 + n_header])["__metadata__"]
    texts.pop("sha256")
    for name, value in weights.items():
        for what, one in odd_arrays(value):
            if isinstance(one, np.ndarray) and one.dtype.kind in "fiu" and one.dtype.isnative:
                changed = weights | {name: np.ascontiguousarray(one)}
                yield f"{name}: {what}", save(changed, {**texts, "sha256": checksum(changed, texts)})
        fewer = {n: v for n, v in weights.items() if n != name}
        yield f"without {name}", save(fewer, {**texts, "sha256": checksum(fewer, texts)})


def attack_files(
    adata: ad.AnnData, tally: Tally, n: int, share: float, rng: np.random.Generator, folder: Path, of_bytes: float = 1.0
) -> None:
    path = folder / "model.safetensors"
    sc_vaenb.tl.export_model(adata, path)
    content = path.read_bytes()
    other = adata.copy()
    del other.uns["vae"]
    expected = {"obsm/X_vae": np.asarray(adata.obsm["X_vae"], float)}
    for kind, cases in (("bytes and header", odd_files(content, rng, n)), ("arrays", odd_arrays_of_files(content))):
        for name, changed in cases:
            if rng.random() > (share if kind == "arrays" else of_bytes):
                continue
            path.write_bytes(changed)

            def read() -> dict[str, np.ndarray]:
                into = other.copy()
                sc_vaenb.tl.import_model(into, path)
                sc_vaenb.tl.embed(into, device="cpu")
                return {"obsm/X_vae": np.asarray(into.obsm["X_vae"], float)}

            tally.add(f"file, {kind}", name, read, expected)


def attack_checkpoints(adata: ad.AnnData, tally: Tally, share: float, rng: np.random.Generator, folder: Path) -> None:
    """States of a fit whose checksum is right: each is gone on from, or set aside with a warning."""
    import torch
    from safetensors import safe_open
    from safetensors.torch import save as save_tensors

    from sc_vaenb.fit import checkpoint

    checkpoint.MAX_SHARE_OF_TIME = float("inf")
    small = adata[:, :20].copy()

    def fit(where: Path) -> np.ndarray:
        return np.asarray(sc_vaenb.tl.vae(small, checkpoint=where, copy=True, **FAST).obsm["X_vae"], float)

    expected = {"X": fit(folder / "whole")}
    path = sorted((folder / "whole").iterdir())[0]
    with safe_open(path, "pt") as file:
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dict)
        texts = dict(file.metadata())

    def cases() -> Iterator[tuple[str, dict[str, Any], dict[str, str]]]:
        for name, value in arrays.items():
            yield f"without {name}", {n: v for n, v in arrays.items() if n != name}, texts
            for what, one in odd_arrays(value.numpy()):
                if isinstance(one, np.ndarray) and one.dtype.kind in "fiu" and one.dtype.isnative:
                    yield f"{name}: {what}", arrays | {name: torch.from_numpy(np.ascontiguousarray(one))}, texts
        for part, text in texts.items():
            for what, one in odd_json(text):
                yield f"{part}: {what}", arrays, texts | {part: one}
        state = json.loads(texts["state"])
        for where in ("best", "adapt"):
            for name in ("model", "__class__", "weights", "restore", "\0"):
                state_with = copy.deepcopy(state)
                state_with[where][name] = 1
                yield f"{where}.{name}", arrays, texts | {"state": json.dumps(state_with)}
        yield "an array more", arrays | {"model/zzz": torch.ones(3)}, texts

    for at, (name, changed, text) in enumerate(cases()):
        if rng.random() > share:
            continue
        place = folder / f"state{at}"
        place.mkdir()
        content = save_tensors({n: v.contiguous() for n, v in changed.items()}, text)
        step = path.name.split("_")[1]
        (place / f"step_{step}_{zlib.crc32(content):08x}.safetensors").write_bytes(content)

        def read(place: Path = place) -> dict[str, np.ndarray]:
            return {"X": fit(place)}

        tally.add("checkpoint", name, read, expected)


MEMORY = """
import resource, sys, warnings
import anndata, numpy as np, sc_vaenb
adata = anndata.read_h5ad(sys.argv[2])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    sc_vaenb.tl.import_model(adata, sys.argv[1])
except Exception as error:
    print(type(error).__name__, str(error)[-90:], end=" | ")
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def attack_memory(adata: ad.AnnData, folder: Path) -> None:
    """What reading costs, of files that ask for much: the growth of the largest resident size, in MB."""
    cells = folder / "cells.h5ad"
    adata.write_h5ad(cells)
    good = folder / "good.safetensors"
    sc_vaenb.tl.export_model(adata, good)
    content = good.read_bytes()
    n_header = int.from_bytes(content[:8], "little")
    texts = json.loads(content[8 : 8 + n_header])["__metadata__"]
    files = {"another program's, 600 MB": save({"a": np.zeros(150_000_000, np.float32)}, {"format": "pt"})}
    files["ours, with an array of 600 MB"] = save(
        {"depth": np.zeros(150_000_000, np.float32)}, {**texts, "sha256": "0"}
    )
    for name, value in {"n_batches": 10**9, "hidden": [10**9], "n_latent": 10**9, "n_genes": 10**9}.items():
        config = json.loads(texts["config"]) | {name: value}
        files[f"ours, {name} = {value}"] = with_header(content, texts | {"config": json.dumps(config)})
    files["ours, 1 MB of nested lists"] = with_header(content, texts | {"params": "[" * 1_000_000})
    files["ours, 1 MB of empty lists"] = with_header(content, texts | {"params": f"[{'[],' * 330_000}[]]"})
    files["ours, as it is"] = content
    for name, changed in files.items():
        path = folder / "big.safetensors"
        path.write_bytes(changed)
        command = [sys.executable, "-W", "ignore", "-c", MEMORY, path, cells]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        print(f"{name:32} {len(changed) / 1e6:7.1f} MB file: {done.stdout.strip() or done.stderr.strip()[-200:]} MB")
        path.unlink()


def main(arguments: list[str] | None = None) -> Tally:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=2000, help="about how many in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", default="records,results,files,checkpoints", help="which, separated by commas")
    parser.add_argument(
        "--memory", action="store_true", help="measure what reading large files costs, and nothing else"
    )
    parser.add_argument("--traced", action="store_true", help="take the memory of each case (slower)")
    options = parser.parse_args(arguments)
    sc.settings.verbosity = 0
    rng = np.random.default_rng(options.seed)
    adata, tally = fitted(), Tally()
    if options.memory:
        with tempfile.TemporaryDirectory() as folder:
            attack_memory(adata, Path(folder))
        return tally
    if options.traced:
        tracemalloc.start()
    kinds, total = options.kinds.split(","), options.cases / 2000
    with tempfile.TemporaryDirectory() as folder:
        if "records" in kinds:
            attack_records(adata, tally, 0.42 * total, rng)
        if "files" in kinds:
            attack_files(adata, tally, round(100 * total), 0.5 * total, rng, Path(folder))
        if "checkpoints" in kinds:
            attack_checkpoints(adata, tally, 0.1 * total, rng, Path(folder))
        if "results" in kinds:
            attack_results(with_results(adata.copy()), tally, 0.3 * total, rng)
    table = tally.table()
    table.loc["all"] = table.sum()
    print(table.to_string())
    for title, lines in (("foreign", tally.foreign), ("not finite", tally.not_finite), ("different", tally.different)):
        print(f"\n{title}: {len(lines)}", *(f"  {line}" for line in lines), sep="\n")
    if options.traced:
        print(f"\nlargest memory of a case: {tally.memory:.0f} MB ({tally.largest})")
    return tally


if __name__ == "__main__":
    main()
