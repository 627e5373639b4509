"""What each score means, for a reader who has never seen it."""

MEANING = {
    "total": "0.6 bio + 0.4 batch",
    "bio": "mean of the scores of biology kept",
    "batch": "mean of the scores of batches mixed",
    "total_scib": "total of scIB's scores, as in papers: with silhouettes, iLISI and pcr comparison",
    "bio_scib": "bio of scIB's scores",
    "batch_scib": "batch of scIB's scores",
    "cross_batch_accuracy": "share of cells to which the nearest cells of other batches give the right type, "
    "each type counting the same",
    "geometry": "types are as far from each other as they are within single batches (as scGraph; 0.5: no correlation)",
    "cilisi": "neighbourhoods within a type hold all batches that have the type",
    "isolated_labels": "the types that occur in the fewest batches stay apart from all others (silhouette)",
    "nmi": "Leiden clusters, at the resolution that fits best, agree with the types (mutual information)",
    "ari": "the same clusters agree with the types (pairs of cells, adjusted Rand index)",
    "silhouette_label": "types are compact and apart (0.5: no more than by chance)",
    "clisi": "neighbourhoods hold a single type",
    "nmi_resolution_1": "nmi of the Leiden clusters at resolution 1",
    "ari_resolution_1": "ari of the Leiden clusters at resolution 1",
    "bras": "the batches of a type lie on each other (silhouette)",
    "ilisi": "neighbourhoods hold all batches",
    "kbet": "share of neighbourhoods that have their type's mixture of batches (chi-square test)",
    "graph_connectivity": "the cells of a type form one piece of the neighbour graph",
    "pcr_comparison": "batch explains less of the variance than before correction",
    "same_batch_share": "share of a cell's neighbours (of its type, where it has one) that come from its own batch",
    "same_batch_excess": "the same beyond chance (0 or less: mixed, 1: nothing in common)",
    "neighborhood_overlap": "share of a cell's neighbours within its batch that it had before correction; "
    "1 is not the aim, but the lowest method may have destroyed something",
    "label_purity": "share of a cell's neighbours that are of its own type",
    "confounded_purity": "the same for types that some batch lacks, which mixing harms first",
    "confounded_kept": "how much of that is left of what it was before correction",
    "private_purity": "label purity of types that only one batch has",
    "private_kept": "how much of that is left of what it was before correction",
}
"""By the name of the score, without underscores in the page as in the plots."""

GROUPS = {
    "summary": "Summary",
    "bio": "Biology kept (their mean is bio)",
    "batch": "Batches mixed (their mean is batch)",
    "other": "Further scores (in no mean)",
}

RELATIVE_TO_UNCORRECTED = {"neighborhood_overlap", "confounded_kept", "private_kept"}
"""Scores that compare with the embedding before correction, which gets 1 by definition."""
