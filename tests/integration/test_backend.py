"""Where Keras has no backend, one line says what to install."""

import os
import subprocess
import sys
import zipfile

import pytest

from keras_gamma._backend import explain

# A module that is `None` cannot be imported, as one that is not installed.
WITHOUT = "import sys; sys.modules.update({name}=None)\n"
SAID = "Keras runs on {name} here, which is not installed: pip install one of 'keras_gamma["


def run(name, code):
    return subprocess.run(
        [sys.executable, "-c", WITHOUT.format(name=name) + code],
        env=os.environ | {"KERAS_BACKEND": name},
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip


@pytest.mark.parametrize("name", ["tensorflow", "jax", "torch"])
def test_the_library(name):
    done = run(name, "import keras_gamma; print(keras_gamma.__version__); keras_gamma.find_roles")
    assert done.returncode == 1 and done.stdout  # Importing alone loads no backend.
    last = done.stderr.splitlines()[-1]
    assert SAID.format(name=name) in last and last.startswith("keras_gamma._backend.")


def test_the_command_line(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.keras", "w") as archive:  # Looks like a model from outside.
        for name in ("config.json", "metadata.json"):
            archive.writestr(name, "{}")
    code = f"sys.argv[1:] = [{str(tmp_path / 'a.keras')!r}]\nfrom keras_gamma import cli; cli.run()"
    done = run("jax", code)
    assert done.returncode == 1 and SAID.format(name="jax") in done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr


def test_other_modules_that_are_missing_are_none_of_its_business():
    assert explain(ModuleNotFoundError("no", name="scipy")) is None
    assert "tensorflow here" in str(explain(ModuleNotFoundError("no", name="tensorflow.python")))
