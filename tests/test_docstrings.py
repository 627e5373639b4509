"""Docstrings of public functions: numpydoc sections, parameters as in the signature, links and sources that exist."""

import inspect
import re
from importlib import import_module
from pathlib import Path

import pytest

import sc_vaenb

SECTIONS = [  # numpydoc's, in its order
    *("Parameters", "Returns", "Yields", "Receives", "Other Parameters", "Raises", "Warns", "Warnings"),
    *("See Also", "Notes", "References", "Examples"),
]
MANY = 10  # more parameters than this are in groups
MODULES = ("pp", "tl", "pl", "report", "datasets", "metrics")
FUNCTIONS = {
    f"{module}.{name}": function
    for module in MODULES
    for name, function in vars(import_module(f"sc_vaenb.{module}")).items()
    if name in import_module(f"sc_vaenb.{module}").__all__ and inspect.isfunction(function)
}
BIBLIOGRAPHY = Path(sc_vaenb.__file__).parents[1] / "docs" / "references.bib"
every_function = pytest.mark.parametrize("name", FUNCTIONS)


def sections(doc):
    """The text of each section; the summary has the name ""."""
    parts = re.split(r"^(\S.*)\n-{3,}\n", doc, flags=re.MULTILINE)
    return list(zip(["", *parts[1::2]], parts[::2], strict=True))


def described(doc):
    """The names in the section "Parameters", in its order."""
    lines = [line for line in dict(sections(doc)).get("Parameters", "").splitlines() if line and line[0] != " "]
    return [name for line in lines for name in re.split(r",\s*", line)]


def groups(doc):
    """First and last name of each group of parameters: lines such as "- for experts: `first` to `last`"."""
    found = re.findall(r"^- [^:`]+: `(\w+)`(?: to `(\w+)`)?$", dict(sections(doc))[""], re.MULTILINE)
    return [(first, last or first) for first, last in found]


def wrong_in(function):
    """What is wrong in the docstring of a function, in words."""
    doc, parameters = inspect.getdoc(function), list(inspect.signature(function).parameters)
    titles = [title for title, _ in sections(doc)][1:]
    wrong = [f"unknown section {title}" for title in titles if title not in SECTIONS]
    if titles != sorted(set(titles), key=lambda title: SECTIONS.index(title) if title in SECTIONS else -1):
        wrong.append(f"sections are not in numpydoc's order: {titles}")
    if described(doc) != parameters:
        wrong.append(f"parameters are {described(doc)}, in the signature {parameters}")
    if len(parameters) > MANY:
        bounds = [parameters.index(name) for group in groups(doc) for name in group if name in parameters]
        ends, starts = bounds[1::2], bounds[::2]
        first = 0 if parameters[0] != "adata" else 1
        if len(bounds) < 4 or starts != [first, *(end + 1 for end in ends[:-1])] or ends[-1] != len(parameters) - 1:
            wrong.append(f"groups {groups(doc)} do not cover the parameters {parameters} in order")
    summary = doc.splitlines()[0]
    if not summary.endswith((".", "?")) or len(summary) > 120:
        wrong.append(f"the first line is no short sentence: {summary}")
    if re.search(r"^\s*\{\w+\}$", doc, re.MULTILINE):
        wrong.append("a placeholder is left")
    return wrong


@every_function
def test_the_docstring_fits_the_function(name):
    assert not wrong_in(FUNCTIONS[name])


@every_function
def test_the_docstring_has_the_sections_of_the_house(name):
    titles = {title for title, _ in sections(inspect.getdoc(FUNCTIONS[name]))}
    assert {"Parameters", "Returns", "See Also"} <= titles
    if name.startswith("tl."):
        assert {"Raises", "Examples"} <= titles


@every_function
def test_see_also_names_what_exists(name):
    see_also = dict(sections(inspect.getdoc(FUNCTIONS[name])))["See Also"].strip()
    for line in see_also.splitlines():
        target, colon, text = line.partition(" : ")
        assert colon
        assert text.endswith((".", "?"))
        assert target != f"sc_vaenb.{name}"
        module, _, attribute = target.rpartition(".")
        assert callable(getattr(import_module(module), attribute))
        assert not target.startswith("sc_vaenb.") or target.removeprefix("sc_vaenb.") in FUNCTIONS


def entries(bibliography):
    """Family name of the first author, year and the whole text of each entry of a BibTeX file."""
    found = re.findall(r"^@\w+\{(.*?)^\}", bibliography, re.MULTILINE | re.DOTALL)
    fields = [dict(re.findall(r"^  (\w+) = \{(.*)\},$", entry, re.MULTILINE)) for entry in found]
    return [(_plain(entry["author"].partition(",")[0]), entry["year"], entry) for entry in fields]


def _plain(text):
    return re.sub(r"[{}\\\"'`]", "", text)


def reference(text):
    """The entries of the bibliography that a reference of a docstring may be."""
    family, year = re.match(r"([\w-]+).*? \((\d{4})\), ", text).groups()
    candidates = [entry for f, y, entry in entries(BIBLIOGRAPHY.read_text()) if (f, y) == (family, year)]
    return [entry for entry in candidates if _fits(text, entry)]


def _fits(text, entry):
    """Whether title, and volume and pages or arXiv's number, are those of the entry; the title may be cut short."""
    title = re.match(r".*? \(\d{4}\), (.*?)(?:, [A-Z][^,]*|, arXiv:\S+)\.$", text)[1]
    is_titled = _plain(entry["title"]).lower().startswith(title.lower())
    place = re.search(r" (\d+):([\w-]+)\.$", text)
    arxiv = re.search(r"arXiv:([\d.]+)\.$", text)
    pages = entry.get("pages", "").replace("--", "-")
    fits_place = place is None or (entry.get("volume"), pages) == place.groups()
    return is_titled and fits_place and (arxiv is None or entry.get("eprint") == arxiv[1])


@every_function
def test_references_are_in_the_bibliography(name):
    text = dict(sections(inspect.getdoc(FUNCTIONS[name]))).get("References", "")
    references = [" ".join(part.split()) for part in re.split(r"^\.\. \[\d+\]", text, flags=re.MULTILINE)]
    assert references[0] == ""  # each has a number
    for source in references[1:]:
        assert len(reference(source)) == 1, f"{source!r} is not in docs/references.bib, or differs from it"
    numbers = [int(number) for number in re.findall(r"^\.\. \[(\d+)\]", text, re.MULTILINE)]
    assert numbers == list(range(1, len(numbers) + 1))


def test_the_entries_of_the_bibliography_are_complete():
    text = BIBLIOGRAPHY.read_text()
    found = entries(text)
    assert len(found) == text.count("@")
    assert all({"author", "title", "year"} <= set(entry) for _, _, entry in found)
    keys = re.findall(r"^@\w+\{(\w+),$", text, re.MULTILINE)
    assert keys == sorted(set(keys))
    sources = BIBLIOGRAPHY.with_name("sources.md").read_text()
    assert set(keys) == set(re.findall(r"\{cite:t\}`(\w+)`", sources))  # the list shows what is cited


def good(adata, *, first=1, second=2):
    """Do it.

    Parameters
    ----------
    adata
        Cells.
    first, second
        Numbers.

    Returns
    -------
    Nothing.

    References
    ----------
    .. [1] Nobody (2000), Nothing, Nature 1:2.

    Examples
    --------
    >>> good(adata)
    """


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("first, second", "second, first", "parameters are"),
        ("first, second", "first", "parameters are"),
        ("first, second", "first, second, third", "parameters are"),
        ("first, second", "first : int", "parameters are"),
        ("Returns\n", "Return\n", "unknown section Return"),
        ("Examples\n", "Raises\n", "numpydoc's order"),
        ("Do it.", "Do it", "no short sentence"),
        ("    Numbers.", "    {numbers}", "a placeholder is left"),
    ],
)
def test_a_broken_docstring_is_found(old, new, message):
    def broken(adata, *, first=1, second=2): ...

    broken.__doc__ = good.__doc__
    assert not wrong_in(broken)
    assert old in good.__doc__
    broken.__doc__ = good.__doc__.replace(old, new)
    assert message in "; ".join(wrong_in(broken))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("`labels_key`", "`unlabeled`"),
        ("`layer` to", "`mask_var` to"),
        ("`device` to `copy`", "`device` to `rng`"),
        ("- for experts", "for experts"),
    ],
)
def test_groups_that_leave_a_parameter_out_are_found(old, new):
    def broken(): ...

    broken.__signature__ = inspect.signature(sc_vaenb.tl.vae)
    summary, title, rest = inspect.getdoc(sc_vaenb.tl.vae).partition("Parameters\n---")
    broken.__doc__ = summary + title + rest
    assert not wrong_in(broken)
    broken.__doc__ = summary.replace("`peaks_key`", "`labels_key`").replace(old, new) + title + rest
    assert "do not cover the parameters" in "; ".join(wrong_in(broken))


@pytest.mark.parametrize(
    ("text", "is_found"),
    [
        ("Stuart et al. (2019), Comprehensive integration of single-cell data, Cell 177:1888-1902.", 1),
        ("Stuart et al. (2018), Comprehensive integration of single-cell data, Cell 177:1888-1902.", 0),
        ("Stuart et al. (2019), Comprehensive integration of single-cell data, Cell 177:1888-1903.", 0),
        ("Stuart et al. (2019), Integration of single-cell data, Cell 177:1888-1902.", 0),
        ("Kingma and Welling (2014), Auto-encoding variational Bayes, arXiv:1312.6114.", 1),
        ("Kingma and Welling (2014), Auto-encoding variational Bayes, arXiv:1312.6115.", 0),
    ],
)
def test_a_wrong_reference_is_found(text, is_found):
    assert len(reference(text)) == is_found
