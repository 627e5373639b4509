"""What a comparison says, of embeddings that were made to be right or wrong."""

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from sc_vaenb.tl._findings import ADVICE, BEST, HARM, LEFT, NEEDED, SEEN, Finding, Judged
from sc_vaenb.tl._harm import find_harm, harm_in_words
from sc_vaenb.tl._needed import correction_needed
from sc_vaenb.tl._null_split import null_split
from sc_vaenb.tl._score import score_embeddings
from sc_vaenb.tl._verdict import judge


def made(shift=0.0, private=0, n=240, seed=0, n_types=4, batches=2):
    """Types far apart, a batch shift, `private` cells of a type that only b0 has: embedding, labels, batch."""
    rng = np.random.default_rng(seed)
    types, batch = np.arange(n) % n_types, (np.arange(n) // n_types) % batches
    types, batch = np.append(types, np.full(private, n_types)), np.append(batch, np.zeros(private, int))
    x = rng.normal(0, 1, (len(types), 12)) + 9 * np.eye(12)[types]
    x[:, -1] += shift * batch
    return x, np.char.add("T", types.astype(str)), np.char.add("b", batch.astype(str))


def verdict_of(labels, batch, label_key="cell_type", uns=None, **embeddings):
    """The findings on these embeddings (a list: seeds), and the text."""
    obs = pd.DataFrame({"cell_type": labels, "batch": batch}, index=[f"c{i}" for i in range(len(batch))])
    adata, rows = AnnData(np.zeros((len(batch), 1), np.float32), obs=obs), []
    for method, arrays in embeddings.items():
        for seed, array in enumerate(arrays if isinstance(arrays, list) else [arrays]):
            key = f"{method}{seed or ''}"
            adata.obsm[f"X_{key}"] = array.astype(np.float32)
            rows.append({"method": method, "seed": seed, "embedding": f"X_{key}", "seconds": 0.0})
    adata.uns.update(uns or {})
    methods = pd.DataFrame(rows)
    scores = score_embeddings(adata, methods["embedding"].tolist(), "batch", label_key, "X_PCA", 20_000, 0)
    findings, text = judge(adata, methods, scores, "batch", label_key)
    assert "nan" not in text
    return findings, text


def said(findings, question, subject=None):
    rows = findings[(findings["question"] == question) & ((subject is None) | (findings["subject"] == subject))]
    return rows["answer"].iloc[0]


@pytest.mark.slow
def test_where_nothing_is_to_be_corrected_nothing_is_best():
    x, labels, batch = made()
    noisy = x + np.random.default_rng(1).normal(0, 0.1, x.shape)
    findings, text = verdict_of(labels, batch, PCA=x, Harmony=noisy, VAE=noisy)
    assert said(findings, NEEDED) in {"no", "hardly"}
    assert said(findings, BEST) == "PCA or VAE"
    assert text.startswith("Best: PCA or VAE will do, because there is nothing to correct. Scores (total")
    assert "(0 = fully mixed, 1 = fully separated)" in text
    assert "No type is lost by Harmony and VAE." in text


@pytest.mark.slow
def test_the_best_is_one_that_does_no_harm_and_the_rest_is_told_why():
    """Merged scores as high as can be in mixing, and has lost a private type of 14 cells."""
    x, labels, batch = made(shift=20, private=14)
    clean = made(private=14)[0]
    merged = clean.copy()
    merged[-14:] = clean[:14] + np.random.default_rng(0).normal(0, 0.3, (14, 12))
    findings, text = verdict_of(labels, batch, PCA=x, Good=clean, Merged=merged)
    assert said(findings, NEEDED) == "yes"
    assert said(findings, BEST) == "Good"
    assert said(findings, HARM, "Good") == "no"
    assert said(findings, HARM, "Merged") == "few"
    assert "Merged blurs T4, which PCA keeps apart. Share of neighbours of the own type: T4 1.00 to 0." in text
    assert "(14 cells)" in text
    alone, text = verdict_of(labels, batch, PCA=x, Merged=merged)
    assert said(alone, BEST) == "Merged"  # of what there is; what it lost is looked at elsewhere
    assert alone[alone["question"] == ADVICE]["sentence"].iloc[0] == "Use Merged, but compare T4 in the PCA."


@pytest.mark.slow
def test_methods_with_the_same_reservation_are_advised_together():
    x, labels, batch = made(shift=20, private=14)
    merged = made(private=14)[0]
    merged[-14:] = merged[:14] + np.random.default_rng(0).normal(0, 0.3, (14, 12))
    findings, _ = verdict_of(labels, batch, PCA=x, One=merged, Two=merged)
    assert findings[findings["question"] == ADVICE]["sentence"].iloc[0] == "Use One or Two, but compare T4 in the PCA."


@pytest.mark.slow
def test_types_too_small_to_see_a_loss_are_named():
    x, labels, batch = made(shift=20, private=9)
    clean = made(private=9)[0]
    _, text = verdict_of(labels, batch, PCA=x, Good=clean, Fine=clean)
    assert "No type is lost by Good and Fine. Too small to be judged (fewer than 10 of 249 cells): T4." in text


@pytest.mark.slow
def test_a_method_that_loses_most_is_not_best():
    x, labels, batch = made(shift=20)
    noise = np.random.default_rng(0).normal(0, 1, x.shape)
    findings, text = verdict_of(labels, batch, PCA=x, VAE=x, CVAE=noise)
    assert said(findings, HARM, "CVAE") == "yes"
    assert said(findings, BEST) in {"PCA", "VAE", "PCA or VAE", "VAE or PCA"}
    assert "keep the batch in every test" in text


@pytest.mark.slow
def test_what_is_left_and_what_is_lost_are_reconciled():
    x, labels, batch = made(shift=20, private=30)
    half = made(shift=3, private=30)[0]
    half[-30:] = half[:30]
    findings, text = verdict_of(labels, batch, PCA=x, CVAE=half)
    assert said(findings, LEFT, "CVAE") == "yes"
    assert "CVAE leaves batches separated. It also mixes " in text
    assert "with other cells. These are not the cells that stay separated: more correction would lose more" in text


@pytest.mark.slow
@pytest.mark.parametrize("label_key", ["cell_type", None])
@pytest.mark.parametrize("batches", [2, 3])
def test_batches_without_a_type_in_common_cannot_be_judged(label_key, batches):
    x, labels, _ = made(n_types=2 * batches)
    batch = np.array([f"b{int(name[1:]) // 2}" for name in labels])
    findings, text = verdict_of(labels, batch, label_key, PCA=x, Harmony=x - x.mean(0), VAE=x)
    assert said(findings, NEEDED) == said(findings, BEST) == "cannot be told"
    assert findings[findings["question"] == ADVICE]["sentence"].iloc[0].startswith("Use PCA or VAE. Do not interpret")
    if label_key:
        assert "because no type is in two batches. Batch b0 has T0, T1; b1 has T2, T3" in text
    else:
        assert "because no cluster is in two batches: this is a strong batch effect, or batches without a type" in text


@pytest.mark.slow
def test_what_a_fit_found_of_groups_decides_where_clusters_cannot():
    x, labels, _ = made(n_types=4)
    batch = np.array([f"b{int(name[1:]) // 2}" for name in labels])
    for group, answer in (([0, 0], "yes"), ([0, 1], "cannot be told")):
        data = Judged(None, batch, {"PCA": [x]}, "PCA", np.array(group))
        assert correction_needed(data).answer == answer
    overlap = {"batches": ["b0", "b1"], "group": [0, 1], "share": [[1.0, 0.1], [0.1, 1.0]]}
    uns = {"VAE": {"params": {"overlap": "auto"}, "overlap": overlap}}
    text = verdict_of(labels, batch, None, uns, PCA=x, VAE=x)[1]
    assert "The fit found batches that share no kind of cell." in text


def test_sets_of_batches_that_share_nothing_are_named():
    x, labels, _ = made(n_types=4, n=480)
    batch = np.array([f"b{2 * (int(name[1:]) // 2) + i % 2}" for i, name in enumerate(np.sort(labels))])
    order = np.argsort(labels, kind="stable")
    found = correction_needed(Judged(labels[order], batch, {"PCA": [x[order]]}, "PCA"))
    assert found.answer in {"no", "hardly"}
    assert found.sentence.endswith("because they have no type in common: b0, b1 | b2, b3.")


def test_composition_is_no_batch_effect():
    rng = np.random.default_rng(0)
    x, labels, _ = made(n=400)
    batch = np.where(rng.random(400) < np.array([0.9, 0.5, 0.2, 0.05])[[int(name[1:]) for name in labels]], "x", "y")
    for known in (labels, None):
        assert correction_needed(Judged(known, batch, {"PCA": [x]}, "PCA")).answer in {"no", "hardly"}


@pytest.mark.slow
def test_a_tie_is_called_a_tie():
    x, labels, batch = made(shift=20)
    clean, rng = made()[0], np.random.default_rng(0)
    a, b = ([clean + rng.normal(0, 1, x.shape) for _ in range(2)] for _ in "AB")
    findings, text = verdict_of(labels, batch, PCA=x, A=a, B=b)
    assert set(said(findings, BEST).split(" or ")) == {"A", "B"}
    assert "they do not differ beyond chance" in text
    findings, text = verdict_of(labels, batch, PCA=x, A=a[0], B=b[0])
    assert "With one seed, a spread of 0.02 over seeds is assumed; n_seeds=3 measures it." in text
    assert findings["confidence"].iloc[0] != "high"


@pytest.mark.slow
def test_a_fit_that_was_told_the_labels_is_left_out():
    x, labels, batch = made(shift=20)
    clean = made()[0]
    told = 30 * np.eye(12)[[int(name[1:]) for name in labels]] + clean / 10
    uns = {"Told": {"params": {"labels_key": "cell_type", "unlabeled": "unknown"}}}
    findings, text = verdict_of(labels, batch, "cell_type", uns, PCA=x, Good=clean, Told=told)
    assert said(findings, SEEN, "Told") == "yes"
    assert said(findings, BEST) == "Good"
    assert "Told was fitted with the labels that it is scored with (obs['cell_type']), so it is left out" in text


def test_without_labels_clusters_of_single_batches_must_stay_apart():
    x, _, batch = made(n=400)
    data = Judged(None, batch, {"PCA": [x], "VAE": [x], "CVAE": [np.random.default_rng(0).normal(size=x.shape)]}, "PCA")
    harm = find_harm(data, "CVAE")
    assert harm.excludes
    assert harm.before == "VAE"
    assert find_harm(data, "VAE").none
    (found,) = harm_in_words(data, "CVAE", harm, None)
    assert found.sentence.startswith("CVAE loses much of the structure: cluster 0 of b0")
    assert isinstance(found, Finding)


class Run:
    """A fit of a null split that keeps the data as they are, or destroys them."""

    def __init__(self, method, destroys):
        self.method, self.key, self.fingerprint, self.destroys = method, method, f"{method} 1", destroys

    def compute(self, null):
        x = np.asarray(null.layers["counts"], np.float32)
        null.obsm[f"X_{self.key}"] = np.random.default_rng(0).normal(size=x.shape) if self.destroys else x


def test_a_null_split_finds_what_a_correction_destroys_and_is_not_made_twice():
    x, _, batch = made(n=400)
    adata = AnnData(np.zeros((400, 12), np.float32), obs=pd.DataFrame({"batch": batch}, index=map(str, range(400))))
    adata.layers["counts"] = x.astype(np.float32)
    calls = []

    def runs(null, half, n_steps):
        calls.append((null.n_obs, null.obs[half].value_counts().tolist(), n_steps))
        return [Run(name, name == "CVAE") for name in ("PCA", "Harmony", "VAE", "CVAE")]

    table, found = null_split(adata, "batch", runs, None, 0)
    assert calls == [(200, [100, 100], 150)]
    assert not any(loss.lost for loss in found["Harmony"])
    assert any(loss.lost for loss in found["CVAE"])

    def none(null, half, n_steps):
        made = runs(null, half, n_steps)
        for run in made:
            run.compute = lambda _: pytest.fail("computed again")
        return made

    pd.testing.assert_frame_equal(null_split(adata, "batch", none, table, 0)[0], table)
    assert null_split(adata[:150], "batch", none, None, 0)[1] == {}  # too few cells to split
