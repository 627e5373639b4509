"""Messages of a fit: at its start, about groups of batches, and about kinds of cells that were lost."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from ..fit.lost_kinds import Lost
from ..fit.overlap import MIN_CELLS_PER_BATCH, Overlap
from ..model.config import ModelConfig
from ._inputs import Inputs

MAX_GROUPS_NAMED = 10  # in a message


def start_in_words(method: str, inputs: Inputs, config: ModelConfig, device: torch.device) -> str:
    return (
        f"fitting {method} to {len(inputs.counts):,} cells x {len(inputs.genes):,} genes"
        + (f" and {config.n_proteins} proteins" if config.n_proteins else "")
        + (f" and {config.n_peaks:,} peaks" if config.n_peaks else "")
        + (f" of {len(inputs.batches)} batches" if len(inputs.batches) else "")
        + f" on {device} ({inputs.options.n_steps:,} steps)"
    )


def groups_in_words(batches: NDArray[np.str_], overlap: Overlap) -> str:
    n_groups, group_names = int(overlap.group.max()) + 1, _listed(batches, overlap)
    if n_groups == len(batches):
        result = (
            f"No two of the {n_groups} batches ({group_names}) have a kind of cell in common that the counts show. So "
            "nothing is corrected: the embedding is that of sc_vaenb.tl.vae."
        )
    else:
        result = (
            f"The batches fall into {n_groups} groups without a kind of cell in common: {group_names}. Batch effects "
            "are taken out within each group; the differences between the groups are kept."
        )
    return (
        f"{result} The data cannot tell whether these differences are biological or technical. If they are biological "
        "(other tissues, stages, sorted cells), this is right. If they are technical (the same kinds of cells by "
        "another technology), fit again with overlap='all', and compare both with sc_vaenb.tl.compare."
    )


def not_compared_in_words(n_batches: int) -> str:
    return (
        f"None of the {n_batches} batches has the {MIN_CELLS_PER_BATCH} cells that a search for shared kinds of cells "
        "needs. So all are corrected as if they held the same kinds: what differs between them is lost, also if it is "
        "biological, such as time points (if these are known, pass time_key=). Use larger batches (the day, the plate, "
        "the protocol) as batch_key, and compare with PCA and sc_vaenb.tl.vae."
    )


def all_in_words(batches: NDArray[np.str_], overlap: Overlap) -> str:
    return (
        "overlap='all': all differences between batches are taken out, though the counts show "
        f"{overlap.group.max() + 1} groups without a kind of cell in common: {_listed(batches, overlap)}. If these "
        "hold different cells, these are mixed and their differences are lost: then use overlap='auto'."
    )


def apart_in_words(apart: list[list[int]], batches: NDArray[np.str_]) -> str:
    more = f" (and the batches of {len(apart) - 1} more time points)" if len(apart) > 1 else ""
    return (
        f"The batches {', '.join(batches[apart[0]])} are of one time point{more}, but the counts do not show that all "
        "of them have kinds of cells in common. time_key takes them to hold the same kinds, and moves them onto each "
        "other. If they hold different cells (another tissue, sorted cells), these are mixed: fit without time_key."
    )


def _listed(batches: NDArray[np.str_], overlap: Overlap) -> str:
    n_groups = int(overlap.group.max()) + 1
    names = [", ".join(batches[overlap.group == g]) for g in range(min(n_groups, MAX_GROUPS_NAMED))]
    return " | ".join(names) + (" | ..." if n_groups > MAX_GROUPS_NAMED else "")


def lost_in_words(lost: list[Lost], batches: NDArray[np.str_], genes: NDArray[np.str_]) -> str:
    worst = max(lost, key=lambda pair: pair.share)
    high, other = (", ".join(genes[which]) for which in (worst.genes, worst.other_genes))
    more = f" (and {len(lost) - 1} more pairs)" if len(lost) > 1 else ""
    return (
        f"Kinds of cells were lost: in batch {str(batches[worst.batch])!r}, cells high in {high} and cells high in "
        f"{other} are far apart in the counts, but in the embedding {worst.share:.0%} of the nearest neighbours of the "
        f"former are of the latter{more}. Fit again with another seed or more latent dimensions, and compare with "
        "sc_vaenb.tl.vae."
    )
