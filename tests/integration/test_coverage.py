"""docs/coverage.md is whole, and says what is found today."""

import pathlib
import re
import sys

import keras
import pytest

import keras_gamma

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import zoo  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # keras-hub warns of its own masks

PAGE = (ROOT / "docs" / "coverage.md").read_text(encoding="utf-8")


def table(title):
    """Name -> counts of roles, as text, from one table of the page."""
    part = PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]
    rows = [line.strip("|").split("|") for line in part.splitlines() if line.startswith("| ")]
    rows = [row for row in rows[1:] if row[0].strip() != "---"]
    return {row[0].strip(): [cell.strip() for cell in row[1:6]] for row in rows}


def families(package):
    return list(getattr(zoo, package)())


def test_every_model_of_keras_applications_is_listed():
    assert {name for name, _ in families("applications")} == set(table("keras.applications"))


def test_counts_of_the_definition():
    """Three rows of the table of counts that the definition of roles gives."""
    rows = table("keras.applications")
    assert rows["ResNet50"] == ["16", "4", "33", "–", "–"]
    assert rows["ResNet50V2"] == ["16", "–", "28", "5", "–"]
    assert rows["DenseNet121"] == ["–", "–", "120", "1", "–"]


def test_every_family_of_keras_hub_is_there():
    import keras_hub

    names = {n for n in dir(keras_hub.models) if n.endswith("Backbone")}
    assert names - {"Backbone", "FeaturePyramidBackbone"} <= set(table("keras-hub"))


def test_no_family_ended_in_an_error_and_every_other_has_a_reason():
    assert "**" not in PAGE
    titles = re.findall(r"\n## (.*)\n\n\| model \| residual_last", PAGE)
    assert titles[:3] == ["keras.applications", "keras-hub", "keras-cv"]
    others = sum(int(row[4]) for t in titles for row in table(t).values() if row[4] != "–")
    reasons = PAGE.split("## Why `other`")[1]
    assert sum(int(n) for n in re.findall(r" (\d+)(?:,| \|)", reasons)) == others


@pytest.mark.parametrize("package", ["hub", "cv"])
def test_every_family_has_a_recipe_and_a_row(package):
    recipes = dict(families(package))
    assert recipes.keys() == table(f"keras-{package}").keys()
    assert None not in recipes.values(), "a family has no recipe in benchmarks/zoo.py"


@pytest.mark.one_in(60)
@pytest.mark.parametrize(
    ("package", "name"), [(p, name) for p in ("hub", "cv") for name in table(f"keras-{p}")]
)
def test_the_page_says_what_is_found(package, name):
    counts = keras_gamma.find_roles(dict(families(package))[name]()).counts()
    found = [str(counts[role] or "–") for role in keras_gamma.Role]
    assert found == table(f"keras-{package}")[name], "run benchmarks/walk_models.py again"
    keras.backend.clear_session()
