"""The documentation: the site builds without a warning, and the tutorial runs."""

import inspect
import os
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_needs_nothing_from_outside(tmp_path):
    pytest.importorskip("material")
    pytest.importorskip("mkdocstrings")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)],
        capture_output=True, text=True, cwd=ROOT, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    reference = (tmp_path / "reference" / "roles" / "index.html").read_text(encoding="utf-8")
    assert "keras_gamma.roles.finding.find_roles" in reference
    assert "&gt;&gt;&gt;" in reference and "<blockquote>" not in reference
    assert (tmp_path / "search" / "search_index.json").stat().st_size > 10_000
    front = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert not re.findall(r"<(?:script|link)[^>]*(?:src|href)=\"?https?:[^>]*\.(?:js|css)", front)


def test_the_reference_has_every_public_name():
    import keras_gamma

    pages = "".join(path.read_text() for path in (ROOT / "docs" / "reference").glob("*.md"))
    documented = set(re.findall(r"^::: keras_gamma\.[\w.]+\.(\w+)$", pages, re.MULTILINE))
    names = {
        name
        for name in set(keras_gamma.__all__) - {"__version__"}
        if not inspect.ismodule(getattr(keras_gamma, name))
    }
    assert names - documented == set()


@pytest.mark.slow
@pytest.mark.parametrize("page", ["index.md", "quickstart.md"])
def test_the_first_pages_run_as_they_stand(page, capsys):
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    names = {}
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(compile(block, page, "exec"), names)
    assert re.search(
        r"^conv4_block\S+/gamma +×\d+ +batch +residual_last", capsys.readouterr().out, re.M
    )


@pytest.mark.slow
def test_the_tutorial_runs(tmp_path):
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    notebook = nbformat.read(ROOT / "docs" / "tutorial.ipynb", as_version=4)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    client = nbclient.NotebookClient(
        notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute(env=environment)
    shown = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    assert any("keras-gamma" in one.get("data", {}).get("text/html", "") for one in shown)
    text = "".join(one.get("text", "") for one in shown)
    accuracy = float(re.search(r"test accuracy ([\d.]+)", text).group(1))
    assert accuracy > 0.85
    assert "No disagreement" in text


def test_the_tutorial_is_stored_without_its_outputs():
    nbformat = pytest.importorskip("nbformat")
    notebook = nbformat.read(ROOT / "docs" / "tutorial.ipynb", as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells)
