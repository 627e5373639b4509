"""The numbers of a page are those of the comparison, and the marked ones are the best."""

import io

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from sc_vaenb.metrics import METRICS
from sc_vaenb.report._meaning import MEANING, RELATIVE_TO_UNCORRECTED
from sc_vaenb.report._tables import SUMMARY, Cell, facts, over_draws, score_file, score_table, size_tables


def rows(record):
    return {row.name: row for group in score_table(record).groups.values() for row in group}


def test_scores_are_means_over_seeds_with_their_spread_best_method_first(record):
    table = score_table(record)
    assert table.methods == ["CVAE", "Harmony", "PCA"]
    assert [row.name for row in table.groups["Summary"]] == ["total", "bio", "batch"]
    cvae, harmony, pca = rows(record)["total"].cells
    assert cvae == Cell("0.626", "0.008", best=True)  # 0.62 and 0.632
    assert (harmony, pca) == (Cell("0.600"), Cell("0.580"))
    assert [cell.best for cell in rows(record)["nmi"].cells] == [False, False, True]
    assert table.seconds == [Cell("13.0", "1.4"), Cell("0.50"), Cell("0.25")]
    assert table.undefined == ["private kept"]


def test_lower_is_better_where_it_is(record):
    share, excess = rows(record)["same batch share"], rows(record)["same batch excess"]
    assert share.lower_is_better
    assert not rows(record)["nmi"].lower_is_better
    assert [cell.best for cell in share.cells] == [False, True, False]
    # below 0 batches are mixed, and not better than mixed
    assert [cell.best for cell in excess.cells] == [True, True, False]


def test_the_embedding_before_correction_does_not_win_against_itself(record):
    assert [cell.best for cell in rows(record)["neighborhood overlap"].cells] == [False, True, False]


def test_nothing_is_marked_where_all_are_alike(record):
    record["scores"]["values"]["nmi"] = 0.5 + np.arange(4) * 1e-5
    assert not any(cell.best for cell in rows(record)["nmi"].cells)


def test_every_score_is_explained():
    assert set(MEANING) == {*METRICS, *SUMMARY}
    assert set(MEANING) > RELATIVE_TO_UNCORRECTED == {name for name in METRICS if name.endswith(("_kept", "_overlap"))}


def test_the_file_holds_every_score_to_the_last_digit(record):
    values = record["scores"]["values"].drop(columns="seconds")
    found = pd.read_csv(io.StringIO(score_file(record)), index_col=0, dtype=dict.fromkeys(values, str))
    pd.testing.assert_frame_equal(found[values.columns].astype(float), values)
    assert found["method"].tolist() == ["PCA", "CVAE", "CVAE", "Harmony"]
    assert found["seconds"].tolist() == [0.25, 12.0, 14.0, 0.5]
    assert found["seconds_of_scoring"].tolist() == [1.0, 2.0, 3.0, 4.0]


def test_draws_of_cells_are_told(record):
    assert over_draws(record) is None
    record["scores"]["values"]["nmi_sd"] = [0.001, 0.004, 0.002, np.nan]
    assert over_draws(record) == (100, 0.004)


def cells(n_batches, labels):
    batch = pd.Categorical([str(i % n_batches) for i in range(len(labels))], [str(i) for i in range(n_batches)])
    obs = pd.DataFrame({"batch": batch, "cell_type": labels}, index=[f"cell_{i}" for i in range(len(labels))])
    return AnnData(np.ones((len(labels), 2), np.float32), obs=obs)


def test_cells_are_counted_by_type_and_batch(record):
    adata = cells(2, pd.Categorical(["b", "a", "b", None], ["b", "a", "nobody"]))
    (table,) = size_tables(adata, record["params"])
    assert table.columns == ["0", "1", "all"]
    expected = [("b", [2, 0, 2]), ("a", [0, 1, 1]), ("(no label)", [0, 1, 1]), ("all", [2, 2, 4])]
    assert table.rows == expected
    assert ("Cell types", "2 in obs['cell_type']") in facts(adata, record)


def test_many_batches_get_a_list_of_their_own(record):
    batches, labels = size_tables(cells(13, ["x", "y"] * 13), record["params"])
    assert batches.rows == [(str(i), [2]) for i in range(13)]
    assert labels.rows == [("x", [13]), ("y", [13])]
    del record["params"]["label_key"]
    (alone,) = size_tables(cells(2, ["x"] * 4), record["params"])
    assert alone.rows == [("0", [2]), ("1", [2])]


def test_what_was_detected_is_told(record):
    adata = cells(2, ["x", "y"] * 30)
    assert facts(adata, record)[-1] == ("Counts", "not prepared by sc_vaenb.pp.prepare")
    assert ("Cells scored", "40 that have a label") in facts(adata, record)
    adata.uns["prepare"] = {"source": "raw", "flavor": "seurat", "fallback": "loess failed", "left_out": "7, 8",
                            "n_genes": 1234}  # fmt: skip
    found = dict(facts(adata, record))
    assert found["Counts"] == "found in raw"
    assert found["Genes chosen"].startswith("1,234, most variable in log-normalised counts")
    assert found["Why this flavor"] == "loess failed"
    assert found["No say in the choice"].startswith("batches 7, 8:")


def test_sizes_by_dates_and_numbers_have_their_text_and_lists_are_refused():
    dates = pd.to_datetime(["2024-01-01"] * 3 + ["2024-02-01"] * 3)
    obs = pd.DataFrame({"day": dates, "type": [1.0, 2.0, None, 1.0, 2.0, 1.0]}, index=list("abcdef"))
    adata = AnnData(np.ones((6, 2), np.float32), obs=obs)
    (table,) = size_tables(adata, {"batch_key": "day", "label_key": "type"})
    assert table.rows == [("1", [1, 2, 3]), ("2", [1, 1, 2]), ("(no label)", [1, 0, 1]), ("all", [3, 3, 6])]
    adata.obs["day"] = [["a"]] * 6
    with pytest.raises(ValueError, match=r"obs\['day'\] holds values that are no names"):
        size_tables(adata, {"batch_key": "day"})
