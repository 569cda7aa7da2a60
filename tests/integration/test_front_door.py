"""The public names: the stubs say what there is, and what there is agrees; imports keep order."""

import ast
import importlib
import inspect
import pathlib
import re
import subprocess
import sys

import keras
import pytest

import keras_gamma
from keras_gamma.decay.optimizers import DecayByPath

PACKAGE = pathlib.Path(keras_gamma.__file__).parent
STUBS = sorted(PACKAGE.rglob("__init__.pyi"))
FRONT = (
    "DecayPlan GammaPlan Guidelines Role apply_guidelines audit callbacks distributed_fit dynamics "
    "exclude_from_weight_decay find_roles load_model network optimizers plan_weight_decay "
    "plot_roles register_normalization units verify"
).split()


def names_of(stub):
    """Yields (name, module it stands in or `None` for a module itself) of a stub."""
    package = ".".join(["keras_gamma", *stub.parent.relative_to(PACKAGE).parts])
    for node in ast.parse(stub.read_text(encoding="utf-8")).body:
        for alias in node.names:
            assert alias.asname == alias.name, "A stub exports with `x as x`."
            yield alias.name, f"{package}.{node.module}" if node.module else None


@pytest.mark.parametrize("stub", STUBS, ids=lambda stub: stub.parent.name)
def test_a_stub_and_its_room_agree(stub):
    package = importlib.import_module(
        ".".join(["keras_gamma", *stub.parent.relative_to(PACKAGE).parts])
    )
    found = dict(names_of(stub))
    assert set(package.__all__) == set(found)
    for name, home in found.items():
        value = getattr(package, name)
        if home is None:
            assert inspect.ismodule(value) and value.__name__ == f"{package.__name__}.{name}"
        elif inspect.isclass(value) or inspect.isfunction(value):
            assert (value.__module__, value.__name__) == (home, name)
        else:
            assert getattr(importlib.import_module(home), name) is value


def test_the_front_door_has_a_dozen_names_and_each_stands_in_its_room_too():
    top = dict(names_of(PACKAGE / "__init__.pyi"))
    assert sorted(set(top) - {"__version__"}) == FRONT
    for name, home in top.items():
        room = "keras_gamma" if home is None else home.rpartition(".")[0]
        if room != "keras_gamma":
            assert name in importlib.import_module(room).__all__


def test_what_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="apply_guideline"):
        _ = keras_gamma.apply_guideline


@pytest.mark.parametrize("module", ["callbacks", "optimizers", "units"])
def test_the_facades_hold_only_what_a_room_defines(module):
    facade = importlib.import_module(f"keras_gamma.{module}")
    assert facade.__all__
    for name in facade.__all__:
        assert getattr(facade, name).__module__.startswith(
            ("keras_gamma.decay.", "keras_gamma.checks.", "keras_gamma.dynamics.")
        )


def test_the_stub_of_the_optimizers_tells_each_with_its_base():
    tree = ast.parse((PACKAGE / "optimizers.pyi").read_text(encoding="utf-8"))
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    told = {cls.name: [ast.unparse(base) for base in cls.bases] for cls in classes}
    assert set(keras_gamma.optimizers.__all__) <= set(told)
    for name, (mixin, base) in told.items():
        keras_name = base.removeprefix("keras.optimizers.")
        assert mixin == "DecayByPath"
        if hasattr(keras.optimizers, keras_name):  # An older Keras may lack one.
            first, second = getattr(keras_gamma.optimizers, name).__bases__
            # With torch it is a class of Keras' that is derived from the one with that name.
            assert first is DecayByPath
            assert issubclass(second, getattr(keras.optimizers, keras_name))


def test_importing_the_package_loads_no_backend():
    code = "import sys, keras_gamma; sys.exit('keras' in sys.modules or 'rich' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


FIRST = sorted(set(keras_gamma.__all__) - {"__version__", "GammaPlan"})


@pytest.mark.parametrize(
    "name",
    [
        "GammaPlan",
        *(pytest.param(n, marks=[pytest.mark.slow, pytest.mark.one_in(6)]) for n in FIRST),
    ],
)
def test_any_public_name_may_be_the_first_import(name):
    """Importing Keras has the optimizers imported: what they need may not be on its way then."""
    subprocess.run([sys.executable, "-c", f"from keras_gamma import {name}"], check=True)


def test_the_examples_use_nothing_private():
    examples = sorted((PACKAGE.parent / "examples").rglob("*.py"))
    private = re.compile(r"keras_gamma(\.\w+)*\._[a-z]|from keras_gamma[\w.]* import _")
    assert len(examples) > 50
    assert [path.name for path in examples if private.search(path.read_text("utf-8"))] == []


def test_imports_keep_the_contracts_of_pyproject():
    pytest.importorskip("importlinter")
    check = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()"]
    done = subprocess.run(
        [*check, "--no-cache"], capture_output=True, text=True, cwd=PACKAGE.parent
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 broken" in done.stdout
