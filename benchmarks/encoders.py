"""Other encoders and latent spaces in the place of those of tl.cvae: a set transformer, two layers of z, hyperbolic.

    python benchmarks/encoders.py real DATA.h5ad ... --baselines FOLDER [--seeds 4 5 6]
    python benchmarks/encoders.py trees [--seeds 4 5 6]
    python benchmarks/encoders.py show

Each model is built in the place of the package's own, inside tl.cvae: minibatches, likelihood, steps, map to the
embedding and alignment are the same. DATA and FOLDER are those of quality.py, and so are the two readings (A:
`total_scib`, B: `total`). `trees` are simulated types at the leaves of a binary tree, whose distances are known.
Seconds are CPU seconds: run with OMP_NUM_THREADS=1. Rows are added to the CSV; those of the same data, method and seed
are replaced. The constants of the variants were chosen on other seeds: docs/encoders.md.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import anndata as ad
import numpy as np
import pandas as pd
import scanpy as sc
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr
from sklearn.neighbors import NearestNeighbors
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention

import sc_vaenb
from sc_vaenb.fit import cuda, loop
from sc_vaenb.metrics import score
from sc_vaenb.model.config import ModelConfig
from sc_vaenb.model.minibatch import Minibatch
from sc_vaenb.model.network import MLP, Embedding, Linear, draw_weights
from sc_vaenb.model.sparse_linear import sparse_linear
from sc_vaenb.model.vae import LOG_VAR, CountVAE, Terms

TABLE = Path(__file__).parent / "results" / "encoders.csv"
CHOSEN_ON = "npc_3primates_300g", "scmix_celllines_celseq2_dropseq"  # the constants of the variants, with other seeds
OVERCORRECTION = "mouse_embryo_4libs"  # its biology is confounded with batch: kept out of the means


class Attention(nn.Module):
    """Multihead attention block of Lee et al. 2019: H = LN(X + attention(X, Y)), LN(H + feed-forward(H))."""

    def __init__(self, width: int, n_heads: int = 4) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.query, self.key, self.value, self.out = (Linear(width, width) for _ in range(4))
        self.forward_in, self.forward_out = Linear(width, 2 * width), Linear(2 * width, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))

    def forward(self, x: Tensor, y: Tensor, mask: Tensor | None = None) -> Tensor:
        """x (n_cells, n_x, width) attends to y (n_cells, n_y, width), where the mask (n_cells, n_y) is true."""
        q, k, v = (
            layer(z).unflatten(2, (self.n_heads, -1)).transpose(1, 2)
            for layer, z in ((self.query, x), (self.key, y), (self.value, y))
        )
        attended = scaled_dot_product_attention(q, k, v, None if mask is None else mask[:, None, None])
        h = self.norms[0](x + self.out(attended.transpose(1, 2).flatten(2)))
        return self.norms[1](h + self.forward_out(gelu(self.forward_in(h))))


class SetVAE(CountVAE):
    """The encoder reads the set of the top expressed genes of a cell (Lee et al. 2019, set transformer).

    These are the genes whose log-normalised count is furthest above the gene's mean. A token is the vector of the gene
    plus a network of this excess; with `times`, the vector is multiplied by the excess. The tokens pass `depth` induced
    attention blocks. Then `n_seeds` vectors attend to them, and the result is the input of the default model's MLP.
    """

    def __init__(
        self,
        config: ModelConfig,
        generator: torch.Generator,
        *,
        n_tokens: int = 64,
        width: int = 32,
        depth: int = 1,
        times: bool = False,
        n_induced: int = 16,
        n_seeds: int = 4,
    ) -> None:
        super().__init__(config, generator)
        self.n_tokens, self.times = min(n_tokens, config.n_genes), times
        self.typical = nn.Buffer(torch.zeros(config.n_genes))  # mean log-normalised count of each gene
        encoder = nn.Module()
        encoder.gene, encoder.count = Embedding(config.n_genes, width), MLP(1, 0, (width,), width, "gelu", "none", 0.0)
        encoder.induced = nn.ModuleList(Embedding(n_induced, width) for _ in range(depth))
        encoder.seed = Embedding(n_seeds, width)
        encoder.blocks = nn.ModuleList(Attention(width) for _ in range(2 * depth))
        encoder.pool = Attention(width)
        style = config.activation, config.norm, config.dropout
        encoder.mlp = MLP(n_seeds * width, config.n_encoder_side, config.hidden, 2 * config.n_latent, *style)
        draw_weights(encoder, generator)
        self.encoder = encoder

    @torch.no_grad()
    def initialise(self, batch: Minibatch) -> None:
        self.typical.copy_(batch.dense(batch.log_normalised()).mean(0))
        super().initialise(batch)

    @torch.no_grad()
    def top_genes(self, batch: Minibatch) -> tuple[Tensor, Tensor, Tensor]:
        """Genes, excesses and mask of true tokens (n_cells, n_tokens)."""
        values = batch.dense(batch.log_normalised())
        excess = (values - self.typical).masked_fill(values == 0, -torch.inf)
        excess, gene = excess.topk(self.n_tokens, sorted=False)
        mask = excess.isfinite()
        excess = excess.masked_fill(~mask, 0.0)
        mask[:, 0] = True  # a cell without counts attends to something
        return gene, excess, mask

    def encode(self, batch: Minibatch) -> tuple[Tensor, Tensor]:
        gene, excess, mask = self.top_genes(batch)
        net, excess = self.encoder, excess.unsqueeze(2)
        x = net.gene(gene) * (excess if self.times else 1.0) + net.count(excess, [])
        for induced, attend, answer in zip(net.induced, net.blocks[::2], net.blocks[1::2], strict=True):
            x = answer(x, attend(induced.weight.expand(batch.n_cells, -1, -1), x, mask))
        pooled = net.pool(net.seed.weight.expand(batch.n_cells, -1, -1), x, mask).flatten(1)
        mean, log_var = net.mlp(pooled, self.encoder_side(batch), batch.generator).chunk(2, dim=1)
        return mean, log_var.clamp(*LOG_VAR)


class Ladder(CountVAE):
    """Two layers of z (Sønderby et al. 2016): a coarse z2 generates the prior of z1, and z1 the counts.

    The encoder gives N(mean, variance) of z2, and a suggestion for z1. The posterior of z1 given z2 is the product of
    the suggestion and the prior p(z1 | z2). With `both`, the latent state of the package is (z1, z2): the decoder reads
    both, and both are in the embedding.
    """

    def __init__(
        self, config: ModelConfig, generator: torch.Generator, *, n_coarse: int = 5, both: bool = False, width: int = 64
    ) -> None:
        super().__init__(config, generator)
        self.n_coarse, self.both, self.n_fine = n_coarse, both, config.n_latent - both * n_coarse
        style = config.activation, config.norm, config.dropout
        n_outputs = 2 * (self.n_fine + n_coarse)
        self.encoder = MLP(config.n_genes, config.n_encoder_side, config.hidden, n_outputs, *style)
        self.fine_prior = MLP(n_coarse, 0, (width,), 2 * self.n_fine, *style)
        for part in (self.encoder, self.fine_prior):
            draw_weights(part, generator)

    def suggest(self, batch: Minibatch) -> list[Tensor]:
        """Mean and log-variance of z2, and of the suggestion for z1."""
        first = sparse_linear(self.encoder.first, self.encoder_input(batch), batch)
        h = self.encoder.after_first(first, self.encoder_side(batch), batch.generator)
        mean2, log_var2, mean1, log_var1 = h.split([self.n_coarse] * 2 + [self.n_fine] * 2, 1)
        return [mean2, log_var2.clamp(*LOG_VAR), mean1, log_var1.clamp(*LOG_VAR)]

    def fine(self, z2: Tensor, mean: Tensor, log_var: Tensor) -> list[Tensor]:
        """Mean and log-variance of z1 given z2, and those of its prior."""
        prior_mean, prior_log_var = self.fine_prior(z2, []).chunk(2, 1)
        prior_log_var = prior_log_var.clamp(*LOG_VAR)
        joint = torch.logaddexp(-log_var, -prior_log_var)  # log precision
        mean = mean * (-log_var - joint).exp() + prior_mean * (-prior_log_var - joint).exp()
        return [mean, -joint, prior_mean, prior_log_var]

    def encode(self, batch: Minibatch) -> tuple[Tensor, Tensor]:
        mean2, log_var2, *suggestion = self.suggest(batch)
        mean1, log_var1 = self.fine(mean2, *suggestion)[:2]
        return self.latent(mean1, mean2), self.latent(log_var1, log_var2)

    def latent(self, fine: Tensor, coarse: Tensor) -> Tensor:
        """What the decoder reads."""
        return torch.cat([fine, coarse], 1) if self.both else fine

    def loss(self, batch: Minibatch, beta: Any = 1.0, free_bits: float = 0.0, kl_warmup: Any = 1.0) -> Terms:
        mean2, log_var2, *suggestion = self.suggest(batch)
        noise1, noise2 = batch.random(torch.randn, self.n_fine + self.n_coarse).split([self.n_fine, self.n_coarse], 1)
        z2 = mean2 + (0.5 * log_var2).exp() * noise2
        mean1, log_var1, prior_mean, prior_log_var = self.fine(z2, *suggestion)
        z1 = mean1 + (0.5 * log_var1).exp() * noise1
        raw = self.decode(self.latent(z1, z2), batch)
        reconstruction = -self.likelihood.log_prob(raw, self.offset(batch), batch).mean()
        ratio = log_var1 - prior_log_var
        kl1 = 0.5 * ((mean1 - prior_mean) ** 2 * (-prior_log_var).exp() + ratio.exp() - ratio - 1)
        kl2 = 0.5 * (mean2**2 + log_var2.exp() - log_var2 - 1)
        kl = torch.cat([kl1, kl2], 1).mean(0)
        return Terms(reconstruction + beta * kl.sum(), reconstruction, kl, kl.new_zeros(0))


class Hyperbolic(CountVAE):
    """A latent space of constant negative curvature, -1 / radius^2, with wrapped normals (Nagano et al. 2019).

    All latent states are in the coordinates of the tangent space at the origin: that is what the decoder reads, and
    what becomes the embedding. The posterior is a normal at the origin that is moved to the mean along the geodesic;
    the prior is the wrapped N(0, I) at the origin. Their KL is estimated from the sample of the step.
    """

    def __init__(self, config: ModelConfig, generator: torch.Generator, *, radius: float = 3.0) -> None:
        super().__init__(config, generator)
        self.radius = radius

    def encode(self, batch: Minibatch) -> tuple[Tensor, Tensor]:
        mean, log_var = super().encode(batch)
        norm = mean.norm(dim=1, keepdim=True).clamp(min=1e-6)
        return mean * (norm.clamp(max=8 * self.radius) / norm), log_var  # sinh of more is no number in float32

    def log_volume(self, norm: Tensor) -> Tensor:
        """Log of the volume around a point this far from the origin, relative to that in the tangent space."""
        r = (norm / self.radius).clamp(min=1e-4)
        return (self.config.n_latent - 1) * (r + torch.log(-torch.expm1(-2 * r)) - math.log(2) - r.log())

    def moved(self, mean: Tensor, v: Tensor) -> Tensor:
        """Tangent vectors v at the origin moved to the mean, as points, in tangent coordinates."""
        m, v = mean / self.radius, v / self.radius
        r, s = (x.norm(dim=1, keepdim=True).clamp(min=1e-6) for x in (m, v))
        time, space = r.cosh(), r.sinh() * m / r  # the mean on the hyperboloid
        u = v + (space * v).sum(1, keepdim=True) / (1 + time) * space  # v after parallel transport
        point = s.cosh() * space + s.sinh() * u / s
        length = point.norm(dim=1, keepdim=True).clamp(min=1e-6)
        return self.radius * length.asinh() * point / length

    def geodesics(self, x: NDArray) -> NDArray[np.float64]:
        """Distances between points in tangent coordinates, in units of the radius."""
        norm = np.linalg.norm(x, axis=1, keepdims=True) / self.radius
        space = np.sinh(norm) * x / (self.radius * norm)
        return np.arccosh(np.maximum(np.cosh(norm) * np.cosh(norm.T) - space @ space.T, 1.0))

    def loss(self, batch: Minibatch, beta: Any = 1.0, free_bits: float = 0.0, kl_warmup: Any = 1.0) -> Terms:
        mean, log_var = self.encode(batch)
        noise = batch.random(torch.randn, mean.shape[1])
        v = (0.5 * log_var).exp() * noise
        z = self.moved(mean, v)
        reconstruction = -self.likelihood.log_prob(self.decode(z, batch), self.offset(batch), batch).mean()
        volume = self.log_volume(z.norm(dim=1)) - self.log_volume(v.norm(dim=1))
        kl = (0.5 * (z**2 - noise**2 - log_var) + volume.unsqueeze(1) / mean.shape[1]).mean(0)
        return Terms(reconstruction + beta * kl.sum(), reconstruction, kl, kl.new_zeros(0))


Build = Callable[[ModelConfig, torch.Generator], CountVAE]


class Variant(NamedTuple):
    """What is built in the place of the model (None: nothing), its number of steps over the default, and arguments."""

    build: Build | None = None
    steps: float = 1
    arguments: Mapping[str, Any] = {}


DEFAULT = "MLP (default)"
POOL = partial(SetVAE, depth=0, times=True)
VARIANTS = {
    DEFAULT: Variant(),
    "MLP, beta=0.2": Variant(arguments={"beta": 0.2}),
    "MLP, 3 x steps": Variant(steps=3),
    "MLP, by autograd": Variant(CountVAE),
    "attention pooling": Variant(POOL),
    "attention pooling, 3 x steps": Variant(POOL, steps=3),
    "set transformer": Variant(SetVAE),
    "ladder, z1": Variant(Ladder, arguments={"beta": 0.2}),
    "ladder, z1 and z2": Variant(partial(Ladder, both=True), arguments={"beta": 0.2, "n_latent": 35}),
    "hyperbolic": Variant(Hyperbolic, arguments={"beta": 0.2}),
}


@contextmanager
def in_place_of_the_model(build: Build | None) -> Iterator[list[CountVAE]]:
    """Within this block tl.cvae fits what `build` makes, by autograd. The models are appended to the list."""
    models: list[CountVAE] = []

    def make(config: ModelConfig, generator: torch.Generator) -> CountVAE:
        models.append((build or CountVAE)(config, generator))
        return models[-1]

    step = loop.Step if build else cuda.step_on_cpu
    with patch.object(loop, "CountVAE", make), patch.object(cuda, "step_on_cpu", step):
        yield models


def fits(
    adata: ad.AnnData, reference: NDArray, seed: int, methods: list[str]
) -> Iterator[tuple[CountVAE, dict[str, Any]]]:
    """Each variant after its fit to `adata`, with its row: time, loss and scores; the default before all others."""
    sc_vaenb.pp.prepare(adata, batch_key="batch")
    labels, batch = (adata.obs[key].to_numpy(str) for key in ("cell_type", "batch"))
    n_steps = None
    for method in dict.fromkeys([DEFAULT, *methods]):
        variant = VARIANTS[method]
        with in_place_of_the_model(variant.build) as models:
            steps = None if variant.steps == 1 else round(variant.steps * n_steps)
            start = time.process_time()
            sc_vaenb.tl.cvae(adata, "batch", rng=seed, device="cpu", n_steps=steps, **variant.arguments)
            seconds = time.process_time() - start
        model, result = models[-1], adata.uns["vae"]
        n_steps = n_steps or result["params"]["n_steps"]
        row = {
            "method": method,
            "seed": seed,
            "cpu_seconds": seconds,
            "n_steps": result["params"]["n_steps"],
            "encoder_parameters": sum(parameter.numel() for parameter in model.encoder.parameters()),
            "verdict": result["verdict"]["status"],
            "validation_reconstruction": result["history"]["validation_reconstruction"][-1],
            "validation_kl": result["history"]["validation_kl"][-1],
        }
        yield model, row | score(adata.obsm["X_vae"], labels, batch, reference=reference)


DEPTH = 4  # of the tree: 2^4 types
EDGES = {"coarse": (1.0, 0.7, 0.5, 0.35), "even": (0.6, 0.6, 0.6, 0.6), "fine": (0.4, 0.5, 0.6, 0.7)}
"""Size of the changes along the edges of each level, root first: root mean square of log folds over all genes."""


def tree(edges: tuple[float, ...], seed: int, n_cells: int = 2000, n_genes: int = 1000) -> ad.AnnData:
    """Cells of 16 types at the leaves of a binary tree, in 3 batches. Two types have 1 % of the cells each.

    Along each edge a tenth of the genes changes.
    """
    rng = np.random.default_rng(seed)
    log_rate = rng.normal(0, 1.5, (1, n_genes))
    for size in edges:
        log_rate = log_rate.repeat(2, 0)
        changes = rng.normal(0, size * math.sqrt(10), log_rate.shape)
        log_rate += changes * (rng.random(log_rate.shape) < 0.1)
    share = rng.dirichlet(np.full(len(log_rate), 5.0))
    rare = rng.choice(len(share), 2, replace=False)
    share[rare] = 0.01
    kind, batch = rng.choice(len(share), n_cells, p=share / share.sum()), rng.integers(0, 3, n_cells)
    log_mean = log_rate[kind] + rng.normal(0, 0.4, (3, n_genes))[batch]
    mean = 2000 * rng.lognormal(0, 0.4, (n_cells, 1)) * torch.tensor(log_mean).softmax(1).numpy()
    counts = rng.poisson(rng.gamma(4.0, mean / 4.0)).astype(np.float32)
    obs = pd.DataFrame({"cell_type": kind, "batch": batch}, index=[f"cell_{i}" for i in range(n_cells)])
    obs, truth = obs.astype(str).astype("category"), {"log_rate": log_rate, "rare": rare}
    return ad.AnnData(sp.csr_matrix(counts), obs=obs, uns=truth)


def joins() -> NDArray[np.int64]:
    """Height of the node at which two leaves of the tree meet: 0 for a leaf and itself, DEPTH at the root."""
    leaf = np.arange(2**DEPTH)
    return np.sum([leaf[:, None] >> level != leaf >> level for level in range(DEPTH)], axis=0)


def tree_readings(between: NDArray[np.float64]) -> dict[str, float]:
    """How well distances between types are those of the tree.

    `tree` is Spearman's correlation of the distance with the height of the node where two types meet, over all pairs.
    `coarse` and `fine` are over triplets of types of which two are closer relatives: the share whose closest pair is
    these two; `coarse` if the third meets them at the root only.
    """
    height, upper = joins(), np.triu_indices(2**DEPTH, 1)
    right: dict[bool, list[bool]] = {True: [], False: []}
    for three in combinations(range(2**DEPTH), 3):
        pairs = list(combinations(three, 2))
        heights, distances = [height[pair] for pair in pairs], [between[pair] for pair in pairs]
        right[max(heights) == DEPTH].append(np.argmin(heights) == np.argmin(distances))
    correlation = float(spearmanr(height[upper], between[upper]).statistic)
    return {"tree": correlation, "coarse": float(np.mean(right[True])), "fine": float(np.mean(right[False]))}


def rare_purity(x: NDArray, kind: NDArray, rare: NDArray) -> float:
    """Share of the ten nearest neighbours of a cell of a rare type that are of this type; mean over types."""
    cells = np.flatnonzero(np.isin(kind, rare))
    near = NearestNeighbors(n_neighbors=11).fit(x).kneighbors(x[cells], return_distance=False)[:, 1:]
    own = (kind[near] == kind[cells, None]).mean(1)
    return float(np.mean([own[kind[cells] == code].mean() for code in rare]))


def centres(x: NDArray, kind: NDArray) -> NDArray[np.float64]:
    return np.stack([x[kind == code].mean(0, dtype=np.float64) for code in range(2**DEPTH)])


def distances(x: NDArray) -> NDArray[np.float64]:
    return np.linalg.norm(x[:, None] - x, axis=2)


def tree_rows(name: str, seed: int, methods: list[str]) -> Iterator[dict[str, Any]]:
    adata = tree(EDGES[name], seed)
    kind, where = adata.obs["cell_type"].to_numpy().astype(int), {"data": f"tree, {name}", "seed": seed}

    def readings(x: NDArray) -> dict[str, float]:
        return {"rare": rare_purity(x, kind, adata.uns["rare"]), **tree_readings(distances(centres(x, kind)))}

    yield {**where, "method": "true log expression", **tree_readings(distances(adata.uns["log_rate"]))}
    normalised = sc.pp.log1p(sc.pp.normalize_total(adata, copy=True), copy=True)
    pca = sc.pp.pca(normalised.X, n_comps=50, random_state=0)
    yield {**where, "method": "PCA", **readings(pca)}
    for model, row in fits(adata, pca, seed, methods):
        x = adata.obsm["X_vae"]
        expression = tree_readings(distances(centres(x, kind) @ adata.varm["vae_loadings"].T))
        yield {**where, **row, **readings(x), **{f"{name} of log expression": v for name, v in expression.items()}}
        z = centres(model.embedding_map.inverse(torch.from_numpy(x)).numpy(), kind)  # latent states, aligned
        if row["method"] == DEFAULT:
            yield {**where, "method": "MLP, latent states", **tree_readings(distances(z))}
        if isinstance(model, Ladder) and model.both:
            yield {**where, "method": "ladder, z2 alone", **tree_readings(distances(z[:, model.n_fine :]))}
        if isinstance(model, Hyperbolic):
            yield {**where, "method": "hyperbolic, geodesics", **tree_readings(model.geodesics(z))}


def real_rows(path: Path, baselines: Path, seed: int, methods: list[str]) -> Iterator[dict[str, Any]]:
    reference = np.load(baselines / f"{path.stem}.npz")["pca"]
    for _, row in fits(sc.read_h5ad(path), reference, seed, methods):
        yield {"data": path.stem, **row}


def save(rows: Iterator[dict[str, Any]]) -> None:
    """Add each row to the table as soon as it is there."""
    for row in rows:
        table = pd.read_csv(TABLE) if TABLE.exists() else pd.DataFrame()
        table = pd.concat([table, pd.DataFrame([row])])
        table.drop_duplicates(["data", "method", "seed"], keep="last").to_csv(TABLE, index=False, float_format="%.5f")


def run(options: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    sc.settings.verbosity = 0
    warm = sc_vaenb.datasets.simulate(300, 100)  # what is compiled is compiled before anything is timed
    for _ in fits(warm, sc.pp.pca(warm.X.toarray(), n_comps=5), 0, [DEFAULT]):
        pass
    for seed in options.seeds:
        if options.command == "trees":
            for name in EDGES:
                save(tree_rows(name, seed, options.methods))
        else:
            for path in options.data:
                save(real_rows(path, options.baselines, seed, options.methods))


def show() -> None:
    """Print tables: mean ± standard deviation over seeds; differences are from the default of the same seed."""
    table = pd.read_csv(TABLE).set_index(["data", "seed"])
    default = table[table["method"] == DEFAULT].drop(columns=["method", "verdict"])
    values = table.drop(columns=["method", "verdict"])
    minus, over = values - default.reindex(table.index), values / default.reindex(table.index)
    methods = [*VARIANTS, *(name for name in table["method"].unique() if name not in VARIANTS)]
    sets = list(table.index.unique("data"))
    trees, real = ([d for d in sets if d.startswith("tree") == is_tree] for is_tree in (True, False))
    batches = [d for d in real if d != OVERCORRECTION]
    new = [d for d in batches if d not in CHOSEN_ON]

    def section(title: str, columns: dict[str, tuple[pd.DataFrame, str, list[str]]], digits: int = 3) -> None:
        """One row a method; a column is a frame, a column of it and the data over which the mean is taken."""
        print(f"\n| {title} | " + " | ".join(columns) + " |\n|---|" + "---|" * len(columns))
        for method in methods:
            cells = []
            for frame, name, data in columns.values():
                frame = values if method == DEFAULT and frame is minus else frame
                rows = frame.loc[(table["method"] == method).to_numpy(), name].dropna()
                by_seed = (
                    rows[rows.index.isin(data, level="data")]
                    .unstack("data")
                    .reindex(columns=data)
                    .mean(axis=1, skipna=False)
                )
                sign = "+" if frame is minus else ""
                cells.append(f"{by_seed.mean():{sign}.{digits}f} ± {by_seed.std():.{digits}f}" if len(by_seed) else "")
            if any(cells):
                print(f"| {method} | " + " | ".join(cells) + " |")

    for reading in ("total_scib", "total", "bio", "batch"):
        section(
            f"{reading}, minus the default",
            {d: (minus, reading, [d]) for d in batches} | {"new": (minus, reading, new)},
        )
    section("CPU time over the default", {d: (over, "cpu_seconds", [d]) for d in real}, 1)
    section("CPU seconds", {d: (values, "cpu_seconds", [d]) for d in real}, 1)
    section("weights of the encoder", {d: (values, "encoder_parameters", [d]) for d in real}, 0)
    for loss in ("validation_reconstruction", "validation_kl"):
        section(f"{loss}, minus the default", {d: (minus, loss, [d]) for d in real}, 1)
    embryo = ("confounded_purity", "nmi", "same_batch_excess")
    section("embryo", {name: (values, name, [OVERCORRECTION]) for name in embryo})
    of_expression = (f"{name} of log expression" for name in ("tree", "coarse", "fine"))
    for reading in ("tree", "coarse", "fine", *of_expression, "rare", "total_scib", "total"):
        section(reading, {d: (values, reading, [d]) for d in trees})


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("real", "trees"):
        command = commands.add_parser(name)
        command.add_argument("--seeds", type=int, nargs="+", default=[4, 5, 6])
        command.add_argument("--methods", nargs="+", choices=VARIANTS, default=list(VARIANTS))
        if name == "real":
            command.add_argument("data", nargs="+", type=Path)
            command.add_argument("--baselines", type=Path, required=True)
    commands.add_parser("show")
    options = parser.parse_args(arguments)
    if options.command != "show":
        run(options)
    show()


if __name__ == "__main__":
    main()
