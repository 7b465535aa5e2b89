"""What is published about the package in several files agrees: pyproject.toml, the conda recipe, CITATION.cff."""

from __future__ import annotations

import re
import tomllib

import pytest
import yaml

from jitwatch import __version__
from tests.checkout import PACKAGE, ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
RECIPE = yaml.safe_load((ROOT / "conda" / "recipe.yaml").read_text(encoding="utf-8"))
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
#: Names that conda-forge spells in another way than PyPI.
ON_CONDA = {"prometheus-client": "prometheus_client"}


def as_conda(requirement: str) -> str:
    """A requirement as a recipe has it: `name >=1`."""
    name, version = re.fullmatch(r"([\w-]+)(.*)", requirement).groups()
    return f"{ON_CONDA.get(name, name)} {version}".strip()


def rendered(text: str) -> str:
    """A text of the recipe with its variables."""
    return re.sub(r"\$\{\{ (\w+) \}\}", lambda found: RECIPE["context"][found[1]], text)


def test_version_is_in_one_place():
    """The package says it; pyproject.toml refers to it, and the recipe, which cannot, has the same."""
    assert "version" in PROJECT["project"]["dynamic"]
    assert {"attr": "jitwatch._version.__version__"} == PROJECT["tool"]["setuptools"]["dynamic"]["version"]
    assert f'__version__ = "{__version__}"' in (PACKAGE / "_version.py").read_text(encoding="utf-8")
    assert __version__ == rendered(RECIPE["package"]["version"])
    assert "version" not in CITATION


def test_recipe_has_the_dependencies_of_the_package():
    """Names, lower bounds, Python, build system and commands."""
    project = PROJECT["project"]
    python = f"python {project['requires-python']}"
    needed = [python, *map(as_conda, project["dependencies"])]
    assert needed == [rendered(one) for one in RECIPE["requirements"]["run"]]
    build = [f"python {RECIPE['context']['python_min']}.*", "pip", *map(as_conda, PROJECT["build-system"]["requires"])]
    assert build == [rendered(one) for one in RECIPE["requirements"]["host"]]
    commands = [f"{name} = {target}" for name, target in project["scripts"].items()]
    assert commands == RECIPE["build"]["python"]["entry_points"]


@pytest.mark.parametrize(
    ("key", "recipe", "citation"),
    [
        ("name", RECIPE["package"]["name"], CITATION["title"]),
        ("description", RECIPE["about"]["summary"], CITATION["abstract"]),
        ("license", RECIPE["about"]["license"], CITATION["license"]),
    ],
)
def test_description_is_the_same_everywhere(key, recipe, citation):
    assert [PROJECT["project"][key]] * 2 == [recipe, citation]
    assert PROJECT["project"]["keywords"] == CITATION["keywords"]


def test_public_address_is_the_same_everywhere():
    """None is named before there is one."""
    address = PROJECT["project"].get("urls", {}).get("Repository")
    assert [address] * 2 == [CITATION.get("repository-code"), RECIPE["about"].get("repository")]


def test_classifiers_begin_with_the_oldest_python():
    """One for each version from the oldest one on, without a gap."""
    versions = re.findall(r"Python :: 3\.(\d+)", "\n".join(PROJECT["project"]["classifiers"]))
    oldest = int(PROJECT["project"]["requires-python"].removeprefix(">=3."))
    assert list(map(str, range(oldest, oldest + len(versions)))) == versions
