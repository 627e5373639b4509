"""What `tl.compare` says, on cases whose answer is known.

    python benchmarks/truth/verdict.py 1000 1001 1002

prints, for each question, how many of its statements are right with these seeds. Rules were tuned on seeds 0 to 9.
Counts are simulated or real (../shared/data, left out where they are not there). Embeddings are PCA and Harmony of
these counts, and, so that the rules are tested on what is known, embeddings that keep or destroy what they are made to:
"Clean" is the PCA of the same cells without a batch effect, "Merged" moves the cells of one type onto another.
`fits=True` adds a VAE and a CVAE of few steps.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd

import sc_vaenb
from sc_vaenb._scanpy import override
from sc_vaenb.tl._pca import log_pca
from sc_vaenb.tl._score import score_embeddings
from sc_vaenb.tl._verdict import judge

DATA = Path(__file__).parents[3] / "shared" / "data"
FIT: dict[str, Any] = {"n_latent": 10, "hidden": (64,), "n_steps": 200, "device": "cpu"}
SIMULATED: dict[str, Any] = {"n_genes": 300, "n_types": 5, "mean_depth": 1000}
NOTHING = {"no", "hardly"}
PLAIN = {"PCA", "VAE", "PCA or VAE"}


def counts(seed: int, **design: Any) -> ad.AnnData:
    """Simulated cells with what the package reads."""
    adata = sc_vaenb.datasets.simulate(**{"n_cells": 600, "n_batches": 2, **SIMULATED, **design}, rng=seed)
    adata.layers["counts"] = adata.X.copy()
    return adata


def compared(
    adata: ad.AnnData,
    label_key: str | None = "cell_type",
    made: dict[str, Any] | None = None,
    fits: bool = False,
    labels_key: str | None = None,
) -> pd.DataFrame:
    """The findings of a comparison of PCA, Harmony, what is `made` and, if wanted, fits."""
    rows = []

    def add(method: str, key: str, embedding: Any = None, seed: int = 0) -> None:
        if embedding is not None:
            adata.obsm[f"X_{key}"] = np.asarray(embedding, np.float32)
        rows.append({"method": method, "seed": seed, "embedding": f"X_{key}", "seconds": 0.0})

    mask = "highly_variable" if "highly_variable" in adata.var else None
    add("PCA", "pca", log_pca(adata, "counts", mask, 0))
    sc_vaenb.tl.harmony(adata, "batch", basis="X_pca")
    add("Harmony", "pca_harmony")
    if fits:
        sc_vaenb.tl.vae(adata, mask_var=mask, key_added="vae", **FIT)
        add("VAE", "vae")
        sc_vaenb.tl.cvae(adata, "batch", mask_var=mask, key_added="cvae", **FIT)
        add("CVAE", "cvae")
    if labels_key is not None:
        sc_vaenb.tl.cvae(adata, "batch", mask_var=mask, key_added="taught", labels_key=labels_key, **FIT)
        add("taught", "taught")
    for method, embeddings in (made or {}).items():
        for seed, embedding in enumerate(embeddings):
            add(method, f"{method}_{seed}", embedding, seed)
    methods = pd.DataFrame(rows)
    scores = score_embeddings(adata, methods["embedding"].tolist(), "batch", label_key, "X_pca", 20_000, 0)
    return judge(adata, methods, scores, "batch", label_key)[0]


def answer(findings: pd.DataFrame, question: str, subject: str | None = None) -> str:
    """The answer to a question (about a method), or that there is none."""
    found = findings[findings["question"].str.contains(question, regex=False)]
    found = found if subject is None else found[found["subject"] == subject]
    return "no such finding" if found.empty else str(found["answer"].iloc[0])


def statement(
    question: str, design: str, seed: int, asked: str, answered: str, expected: str | set[str] | Callable[[str], bool]
) -> dict[str, Any]:
    """One statement, and whether it is right."""
    if callable(expected):
        right, expected = expected(answered), (expected.__doc__ or expected.__name__)
    else:
        allowed = {expected} if isinstance(expected, str) else expected
        right, expected = answered in allowed, " / ".join(sorted(allowed))
    return {
        "question": question, "design": design, "seed": seed, "asked": asked,
        "expected": expected, "answered": answered, "right": bool(right),
    }  # fmt: skip


NEEDED, BEST, HARM, SEEN, WORDS = (
    "Is correction needed?",
    "Which method is best?",
    "Does the method lose types?",
    "Did the method see the labels?",
    "Contradictions, missing numbers",
)


def consistent(findings: pd.DataFrame, design: str, seed: int) -> dict[str, Any]:
    """No NaN, and no method that is best (or to be used) although it does harm, without a word of it."""
    text = " ".join(findings["sentence"] + " " + findings["evidence"])
    faults = [word for word in ("nan", "inf ", "None") if word in text]
    best = findings[findings["question"] == BEST].iloc[0]
    harmful = findings[(findings["question"] == HARM) & (findings["answer"] == "yes")]["subject"].tolist()
    if best["subject"] in harmful and "harm" not in best["sentence"]:
        faults.append(f"{best['subject']} is best and does harm")
    if answer(findings, NEEDED) == "no" and best["subject"] not in {"PCA", "VAE"}:
        faults.append("nothing to correct, and yet a correction is best")
    return statement(WORDS, design, seed, "any?", ", ".join(faults) or "none", "none")


def merged(embedding: Any, cells: Any, onto: Any, seed: int, share: float = 1.0) -> Any:
    """The embedding with (a share of) `cells` moved onto random cells of `onto`."""
    rng = np.random.default_rng(seed)
    moved = np.array(embedding, np.float32)
    chosen = rng.permutation(np.flatnonzero(cells))
    chosen = chosen[: round(share * len(chosen))]
    target = rng.choice(np.flatnonzero(onto), len(chosen))
    moved[chosen] = moved[target] + rng.normal(0, moved[target].std(0) / 3, moved[target].shape)
    return moved


def split_at_random(seed: int) -> list[dict[str, Any]]:
    """One batch in two to four random parts: there is nothing to correct."""
    said = []
    n_parts = 2 + seed % 3
    for label_key in ("cell_type", None):
        adata = counts(seed, n_batches=1)
        parts = np.random.default_rng(seed).permutation(np.arange(adata.n_obs) % n_parts)
        adata.obs["batch"] = pd.Categorical([f"part {part}" for part in parts])
        findings = compared(adata, label_key, fits=seed % 5 == 0)
        design = f"random split in {n_parts}" + ("" if label_key else ", no labels")
        said += [
            statement(NEEDED, design, seed, "is it?", answer(findings, NEEDED), NOTHING),
            statement(BEST, design, seed, "which?", answer(findings, BEST), PLAIN),
            consistent(findings, design, seed),
        ]
    return said


def batch_effects(seed: int) -> list[dict[str, Any]]:
    """Strong and moderate effects, with and without labels."""
    said = []
    for strength in (0.3, 0.6):
        for label_key in ("cell_type", None):
            adata = counts(seed, n_batches=3, batch_strength=strength)
            clean = counts(seed, n_batches=3, batch_strength=0.0)
            findings = compared(adata, label_key, {"Clean": [log_pca(clean, "counts", None, 0)]})
            design = f"batch effect of {strength}" + ("" if label_key else ", no labels")
            said.append(statement(NEEDED, design, seed, "is it?", answer(findings, NEEDED), "yes"))
            if label_key:
                said.append(statement(BEST, design, seed, "which?", answer(findings, BEST), corrected))
            said.append(consistent(findings, design, seed))
    return said


def corrected(answered: str) -> bool:
    """Harmony or Clean"""
    return bool({"Harmony", "Clean"} & set(answered.split(" or "))) and "PCA" not in answered


def composition(seed: int) -> list[dict[str, Any]]:
    """Batches of different composition, without a batch effect."""
    said = []
    table = np.random.default_rng(seed).dirichlet(np.full(5, 1.0), 2) + 0.02
    for label_key in ("cell_type", None):
        findings = compared(counts(seed, composition=table, batch_strength=0.0), label_key)
        design = "composition differs" + ("" if label_key else ", no labels")
        said += [
            statement(NEEDED, design, seed, "is it?", answer(findings, NEEDED), NOTHING),
            consistent(findings, design, seed),
        ]
    return said


def confounded(seed: int) -> list[dict[str, Any]]:
    """One type that a batch lacks, or that one batch has a few cells of; one method merges it with another type."""
    said = []
    for n_private in (120, 14 + seed % 47):
        table = np.full((2, 5), (600 - n_private) / 8)
        table[:, 4] = n_private, 0
        adata = counts(seed, composition=table, batch_strength=0.4)
        clean = log_pca(counts(seed, composition=table, batch_strength=0.0), "counts", None, 0)
        types, batch = adata.obs["cell_type"].cat.codes.to_numpy(), adata.obs["batch"].cat.codes.to_numpy()
        onto = (types == 0) & (batch == 1)
        made = {"Clean": [clean], "Merged": [merged(clean, types == 4, onto, seed)]}
        made["Partly"] = [merged(clean, types == 4, onto, seed, 0.4)]
        findings = compared(adata, made=made)
        design = f"private type of {n_private} cells" if n_private == 120 else "private type of 14 to 60 cells"
        said += [
            statement(HARM, design, seed, "Clean?", answer(findings, HARM, "Clean"), "no"),
            statement(HARM, design, seed, "Merged?", answer(findings, HARM, "Merged"), {"yes", "few"}),
            statement(HARM, design, seed, "Partly?", answer(findings, HARM, "Partly"), {"yes", "few"}),
            statement(BEST, design, seed, "which?", answer(findings, BEST), not_merged),
            statement(NEEDED, design, seed, "is it?", answer(findings, NEEDED), "yes"),
            consistent(findings, design, seed),
        ]
    return said


def not_merged(answered: str) -> bool:
    """neither Merged nor Partly"""
    return "Merged" not in answered and "Partly" not in answered


def nothing_shared(seed: int) -> list[dict[str, Any]]:
    """Two or three batches without a type in common."""
    said = []
    for n_batches in (2, 3):
        table = np.kron(np.eye(n_batches), np.ones(2))
        for label_key in ("cell_type", None):
            adata = counts(seed, n_batches=n_batches, n_types=2 * n_batches, composition=table, batch_strength=0.3)
            findings = compared(adata, label_key, fits=label_key is None and n_batches == 2)
            design = f"{n_batches} batches, no type in common" + ("" if label_key else ", no labels")
            said += [
                statement(NEEDED, design, seed, "is it?", answer(findings, NEEDED), "cannot be told"),
                statement(BEST, design, seed, "which?", answer(findings, BEST), "cannot be told"),
                consistent(findings, design, seed),
            ]
    return said


def leak(seed: int) -> list[dict[str, Any]]:
    """A fit that was told the labels that it is scored with, of which half are swapped."""
    adata = counts(seed, n_types=6, batch_strength=0.3)
    types = adata.obs["cell_type"].cat.codes.to_numpy()
    swapped = np.where(np.random.default_rng(seed).random(len(types)) < 0.5, (types + 1) % 6, types)
    adata.obs["swapped"] = pd.Categorical([f"s{code}" for code in swapped])
    adata.obs["copy"] = adata.obs["swapped"].astype(str).str.upper().astype("category")
    findings = compared(adata, "swapped", labels_key="copy")
    design = "half of the labels swapped, and told"
    return [
        statement(SEEN, design, seed, "taught?", answer(findings, SEEN, "taught"), "yes"),
        statement(BEST, design, seed, "which?", answer(findings, BEST), not_taught),
        consistent(findings, design, seed),
    ]


def not_taught(answered: str) -> bool:
    """not the fit that was told"""
    return "taught" not in answered


def ties(seed: int) -> list[dict[str, Any]]:
    """One method of two names: with one seed each and with three, under noise of its own."""
    adata = counts(seed, n_batches=3, batch_strength=0.5)
    clean = log_pca(counts(seed, n_batches=3, batch_strength=0.0), "counts", None, 0)[:, :10]
    rng = np.random.default_rng(seed)
    said = []
    for n_seeds in (1, 3):
        made = {name: [clean + rng.normal(0, 0.4 * clean.std(), clean.shape) for _ in range(n_seeds)] for name in "AB"}
        findings = compared(adata.copy(), made=made)
        design = f"a tie, with {n_seeds} seed{'s' * (n_seeds > 1)}"
        said.append(statement(BEST, design, seed, "which?", answer(findings, BEST), both))
    return said


def both(answered: str) -> bool:
    """A and B, or neither"""
    return ("A" in answered.split(" or ")) == ("B" in answered.split(" or "))


def real_split(seed: int) -> list[dict[str, Any]]:
    """The largest batch of a real data set in random halves; and its batches as they are."""
    said = []
    names = ("pbmc_3studies_10xv1", "pbmc_kang_ctrl_8donors", "scmix_celllines_celseq2_dropseq", "pancreas_5tech_small")
    name = names[seed % len(names)]
    if not (DATA / f"{name}.h5ad").exists():
        return said
    rng = np.random.default_rng(seed)
    whole = ad.read_h5ad(DATA / f"{name}.h5ad")
    for design in ("random halves of one batch", "batches as they are"):
        cells = np.arange(whole.n_obs)
        if "halves" in design:
            cells = np.flatnonzero(whole.obs["batch"] == whole.obs["batch"].value_counts().index[0])
        adata = whole[np.sort(rng.permutation(cells)[:800])].copy()
        adata.layers["counts"] = adata.X.copy()
        if "halves" in design:
            adata.obs["batch"] = pd.Categorical(np.where(rng.permutation(adata.n_obs) % 2, "half a", "half b"))
        adata.obs["cell_type"] = adata.obs["cell_type"].cat.remove_unused_categories()
        sc_vaenb.pp.prepare(adata, batch_key="batch", n_top_genes=min(1000, adata.n_vars))
        for label_key in ("cell_type", None) if adata.obs["cell_type"].nunique() > 1 else (None,):
            findings = compared(adata.copy(), label_key)
            full = f"{name}: {design}" + ("" if label_key else ", no labels")
            expected = NOTHING if "halves" in design else {"yes"}
            said.append(statement(NEEDED, full, seed, "is it?", answer(findings, NEEDED), expected))
            if "halves" in design:
                said.append(statement(BEST, full, seed, "which?", answer(findings, BEST), PLAIN))
            said.append(consistent(findings, full, seed))
    return said


DESIGNS = (split_at_random, batch_effects, composition, confounded, nothing_shared, leak, ties, real_split)


def statements(seed: int) -> list[dict[str, Any]]:
    """All statements with one seed."""
    with override(verbosity="error"):
        return [said for design in DESIGNS for said in design(seed)]


def table(said: list[dict[str, Any]]) -> pd.DataFrame:
    """Right and asked, by question."""
    return pd.DataFrame(said).groupby("question")["right"].agg(right="sum", asked="count")


if __name__ == "__main__":
    everything = [said for seed in map(int, sys.argv[1:] or ["0"]) for said in statements(seed)]
    for wrong in everything:
        if not wrong["right"]:
            print(wrong)
    print(table(everything).to_string())
