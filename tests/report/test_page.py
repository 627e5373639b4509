"""What the page says of a comparison that is not as usual."""

import re

import numpy as np
import pytest

from sc_vaenb.report import _page
from sc_vaenb.report._page import best_method, page

from .conftest import Page


def written(adata, **arguments):
    given = {"command": None, "title": None, "data": "a.h5ad", "table": "a.csv", **arguments}
    return Page(page(adata, "compare", **given))


def test_the_best_method_is_that_of_the_verdict(record):
    assert best_method(record) == "CVAE"
    record["methods"].loc[0, "method"] = "x: CVAE"  # of which CVAE is the end
    assert best_method(record) == "CVAE"
    record["verdict"] = record["verdict"].replace("CVAE", "x: CVAE")
    assert best_method(record) == "x: CVAE"


@pytest.mark.usefixtures("undrawn")
def test_sentences_come_first_and_a_comparison_of_an_earlier_version_is_shown_too(compared):
    record = compared.uns["compare"]
    assert best_method(record) == record["findings"]["subject"][0]
    design, verdict = record["design"]["sentence"].tolist(), record["findings"]["sentence"].tolist()
    said = written(compared).texts("li")
    assert said[0].startswith(verdict[0])
    after_contents = said[said.index("Going on") + 1 :]
    assert len(after_contents) >= len(design) > 0
    assert all(line.startswith(sentence) for line, sentence in zip(after_contents, design, strict=False))
    record["verdict"] = "Best by the total score, 0.6 bio + 0.4 batch: VAE (0.626).\nTake it."
    for name in ("findings", "design", "null_split"):
        record.pop(name, None)
    del record["scores"]["metrics"]["in_scib"]
    page = written(compared)
    assert best_method(record) == "VAE"
    assert page.texts("li")[:2] == record["verdict"].splitlines()
    assert "The same as a table" not in page.texts("summary")


@pytest.mark.usefixtures("undrawn")
def test_the_verdict_is_the_first_thing_below_the_title_and_wide_tables_say_that_they_scroll(compared):
    tags = written(compared).tags
    body = tags[next(i for i, tag in enumerate(tags) if tag["tag"] == "h1") :]
    assert [tag["tag"] for tag in body[:4]] == ["h1", "section", "ul", "li"]
    scores = next(i for i, tag in enumerate(tags) if tag.get("aria-label") == "Scores of all methods")
    hint = next(tag for tag in reversed(tags[:scores]) if tag["tag"] == "p")
    assert hint["class"] == "hint"
    assert "scroll sideways" in hint["text"]


@pytest.mark.usefixtures("undrawn")
def test_the_groups_of_batches_that_a_fit_found_are_shown(compared):
    assert "fell into" not in " ".join(written(compared).texts("p"))
    compared.uns["cvae"]["overlap"]["group"] = np.array([0, 1])
    found = written(compared)
    assert "The batches fell into 2 groups" in " ".join(found.texts("p"))
    assert found.texts("li")[-2:] == compared.uns["cvae"]["overlap"]["batches"].tolist()
    compared.uns["cvae"]["params"]["time_key"] = "time"
    assert "The batches are of 2 groups of time points" in " ".join(written(compared).texts("p"))


@pytest.mark.usefixtures("undrawn")
def test_a_fit_without_its_record_is_left_out(compared):
    assert written(compared).texts("h3") == ["VAE", "CVAE", "<i>wide"]
    for name in ("vae", "vae_seed1", "<i>wide"):
        del compared.uns[name]["model"]
    assert written(compared).texts("h3") == ["CVAE", "<i>wide"]  # its second seed is there


@pytest.mark.usefixtures("undrawn")
def test_a_bad_end_is_not_green(compared):
    for record in compared.uns.values():
        if isinstance(record, dict) and "model" in record:
            record["verdict"].update(status="converged")
    assert len(written(compared).all("span", **{"class": "status poor"})) == 0
    compared.uns["cvae"]["verdict"].update(status="still_improving", posterior_collapse=True)
    assert written(compared).texts("span", **{"class": "status poor"}) == ["still improving, posterior collapse"]


@pytest.mark.usefixtures("undrawn")
def test_a_command_stands_first_and_the_call_is_still_there(compared):
    found = written(compared, command="sc-vaenb compare <a.h5ad>").texts("code")
    assert "sc-vaenb compare <a.h5ad>" in found
    assert any(text.startswith("sc_vaenb.tl.compare(") for text in found)


def test_a_plot_that_is_not_possible_says_why(compared, monkeypatch):
    draw = _page.draw
    figure = {}

    def only_history(plot, *args, **kwargs):
        if "History of the fit in uns['cvae']" in kwargs["caption"]:
            figure["cvae"] = draw(plot, *args, **kwargs)
            return figure["cvae"]
        return _page.Figure(kwargs["alt"], kwargs["caption"], problem="not drawn")

    monkeypatch.setattr(_page, "draw", only_history)
    history = compared.uns["cvae"]["history"]
    compared.uns["cvae"]["history"] = {name: values[:0] for name, values in history.items()}
    assert any("ended before its first evaluation" in text for text in written(compared).texts("p"))


@pytest.mark.usefixtures("undrawn")
def test_control_characters_are_marked(compared):
    compared.obs["batch"] = compared.obs["batch"].cat.rename_categories(["bell \x07 $", "b"])
    compared.uns["compare"]["failed"] = {"pca_harmony": "RuntimeError: \x1b[31mred"}
    text = page(compared, "compare", command="compare a\x7f.h5ad", title="null \x00", data="a.h5ad", table="a.csv")
    assert not re.search("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]", text)
    for marked in (
        "bell \ufffd $",
        "RuntimeError: \ufffd[31mred",
        "compare a\ufffd.h5ad",
        "<title>null \ufffd</title>",
    ):
        assert marked in text
