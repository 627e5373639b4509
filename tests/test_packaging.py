"""What a release needs: versions that agree, bounds that hold, workflows that can run, a wheel with all its files."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from zipfile import ZipFile

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

import sc_vaenb

ROOT = Path(sc_vaenb.__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
GROUPS = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]
FORMS = ROOT / ".github" / "ISSUE_TEMPLATE"
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
CONDA_NAMES = {  # where conda-forge's name is not that of PyPI; -base is without what only notebooks need
    "igraph": "python-igraph",
    "matplotlib": "matplotlib-base",
    "seaborn": "seaborn-base",
    "torch": "pytorch",
}


def blocks():
    """The two files in docs/releasing.md that are to be copied, by name."""
    text = (ROOT / "docs" / "releasing.md").read_text()
    found = re.findall(r"^```yaml\n# (\S+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return {name: yaml.safe_load(block) for name, block in found}


def supported():
    """Versions of Python that the classifiers name."""
    found = (re.fullmatch(r"Programming Language :: Python :: (3\.\d+)", line) for line in PROJECT["classifiers"])
    return [match[1] for match in found if match]


def steps(path):
    for job in yaml.safe_load(path.read_text())["jobs"].values():
        yield from job["steps"]


def test_the_versions_agree():
    """pyproject.toml is the one place; the package reads it where it is installed. After a change: install again."""
    assert sc_vaenb.__version__ == PROJECT["version"]
    assert str(yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"]) == PROJECT["version"]
    assert blocks()["recipe.yaml"]["context"]["version"] == PROJECT["version"]


def test_the_licences_agree():
    told = {PROJECT["license"], yaml.safe_load((ROOT / "CITATION.cff").read_text())["license"]}
    assert told | {blocks()["recipe.yaml"]["about"]["license"], blocks()["meta.yaml"]["license"]} == {"BSD-3-Clause"}
    assert not [line for line in PROJECT["classifiers"] if line.startswith("License")]  # SPDX only, as PyPI wants it


def test_the_changelog_begins_with_what_is_unreleased():
    """Keep a Changelog: versions with their dates, the newest first, and changes under six kinds of heading."""
    lines = (ROOT / "CHANGELOG.md").read_text().splitlines()
    versions = [line for line in lines if line.startswith("## ")]
    assert lines[0] == "# Changelog"
    assert versions[0] == "## [Unreleased]"
    assert all(re.fullmatch(r"## \[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d", line) for line in versions[1:])
    kinds = {"### Added", "### Changed", "### Deprecated", "### Removed", "### Fixed", "### Security"}
    assert {line for line in lines if line.startswith("### ")} <= kinds


@pytest.mark.parametrize("name", ["constraints.txt", "constraints-py313.txt"])
def test_the_constraints_satisfy_the_bounds(name):
    """On Linux and Windows; and nothing that users or tests install is without a pin."""
    lines = (line.split("#")[0].strip() for line in (ROOT / name).read_text().splitlines())
    pins = [Requirement(line) for line in lines if line]
    extras = PROJECT["optional-dependencies"]
    needed = [Requirement(line) for line in PROJECT["dependencies"] + extras["lazy"] + extras["tune"] + extras["test"]]
    for platform in ("linux", "win32"):
        pinned = {
            canonicalize_name(pin.name): next(iter(pin.specifier)).version
            for pin in pins
            if pin.marker is None or pin.marker.evaluate({"sys_platform": platform})
        }
        versions = {str(need): pinned.get(canonicalize_name(need.name), "0") for need in needed}
        assert [need for need in needed if not need.specifier.contains(versions[str(need)], prereleases=True)] == []
        assert "0" not in versions.values()


def test_the_groups_are_the_extras():
    """Each list is written once. A group of the name of an extra is that extra."""
    assert GROUPS["test"] == ["sc_vaenb[test]"]
    assert GROUPS["docs"] == ["sc_vaenb[docs]"]
    assert {"test", "docs"} <= set(PROJECT["optional-dependencies"])
    assert {item["include-group"] for item in GROUPS["dev"] if isinstance(item, dict)} == {"test", "docs"}


def test_the_recipe_has_the_dependencies():
    recipe = blocks()["recipe.yaml"]
    python, *run = recipe["requirements"]["run"]
    assert python == "python >=${{ python_min }}"
    assert f">={recipe['context']['python_min']}" == PROJECT["requires-python"]
    needed = (Requirement(line) for line in PROJECT["dependencies"])
    told = dict(line.split(" ", 1) for line in run)
    assert {name: SpecifierSet(bounds) for name, bounds in told.items()} == {
        CONDA_NAMES.get(need.name, need.name): need.specifier for need in needed
    }
    assert recipe["build"]["python"]["entry_points"] == [f"{k} = {v}" for k, v in PROJECT["scripts"].items()]


def test_the_supported_versions_are_those_tested():
    assert PROJECT["requires-python"] == f">={supported()[0]}"
    matrix = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text())["jobs"]["test"]["strategy"]
    assert matrix["matrix"]["python"] == supported()


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows(path):
    """They read and no more; end some time; pin what they use; run what exists."""
    text = path.read_text()
    assert set(re.findall(r'"?\.\[(\w+)\]', text)) <= set(PROJECT["optional-dependencies"])
    assert all((ROOT / file).exists() for file in re.findall(r"\.ci/\w+|constraints\S*\.txt|tests/\S+\.py", text))
    workflow = yaml.safe_load(text)
    assert workflow["permissions"] == {"contents": "read"}
    assert "cancel-in-progress" in workflow["concurrency"]
    for name, job in workflow["jobs"].items():
        assert job["timeout-minutes"] <= 120
        assert job.get("permissions") == ({"id-token": "write"} if name == "publish" else None)
    for step in steps(path):
        assert ("uses" in step) != ("run" in step)
        if "uses" in step:
            assert re.fullmatch(r"actions/[a-z-]+@v\d+|pypa/gh-action-pypi-publish@release/v1", step["uses"])


def test_only_a_tag_publishes():
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "release.yml").read_text())["jobs"]
    assert jobs["publish"]["if"].endswith("startsWith(github.ref, 'refs/tags/')")
    assert jobs["publish"]["needs"] == "build"
    assert all("run" not in step for step in jobs["publish"]["steps"])  # nothing that was built is run there


def test_read_the_docs_builds_as_the_workflow_does():
    config = yaml.safe_load((ROOT / ".readthedocs.yaml").read_text())
    setup = next(s for s in steps(ROOT / ".github" / "workflows" / "docs.yml") if "setup-python" in s.get("uses", ""))
    assert config["build"]["tools"]["python"] == setup["with"]["python-version"]
    assert config["build"]["jobs"]["install"][0].endswith('-c constraints.txt ".[docs]"')
    assert (ROOT / config["sphinx"]["configuration"]).exists()


def test_pre_commit_has_the_ruff_of_the_constraints():
    repos = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    rev = next(repo["rev"] for repo in repos if repo["repo"].endswith("/ruff-pre-commit"))
    assert f"ruff=={rev.removeprefix('v')}" in (ROOT / "constraints.txt").read_text().splitlines()


@pytest.mark.parametrize("name", ["bug", "wrong_result", "feature"])
def test_forms(name):
    form = yaml.safe_load((FORMS / f"{name}.yml").read_text())
    asked = [item for item in form["body"] if item["type"] != "markdown"]
    assert form["name"]
    assert form["description"]
    assert len({item["id"] for item in asked}) == len(asked)
    assert any(item.get("validations", {}).get("required") for item in asked)


@pytest.mark.slow
def test_the_wheel_holds_the_package_and_no_more(tmp_path):
    pytest.importorskip("hatchling")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (path,) = tmp_path.glob("*.whl")
    about = f"sc_vaenb-{PROJECT['version']}.dist-info"
    with ZipFile(path) as wheel:
        names = set(wheel.namelist())
    files = {path for path in (ROOT / "sc_vaenb").rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    expected = {path.relative_to(ROOT).as_posix() for path in files}
    assert {name for name in names if not name.startswith(about)} == expected
    assert {"sc_vaenb/py.typed", "sc_vaenb/report/page.html.jinja"} <= names
    assert {f"{about}/licenses/LICENSE", f"{about}/entry_points.txt"} <= names
