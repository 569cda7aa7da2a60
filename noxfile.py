"""The environments that keras_gamma is tested in, beside the README's: each a session of nox.

    nox --list
    nox --session jax py313
    nox --session grid archives         # all of them, in turn: an hour and more
    SHARES=4 nox --session hosted       # of cases that are alike, a quarter, as in CI

The README's test command runs every test with the newest versions. These run the tests of the
library's rooms, which need neither the examples nor their packages, elsewhere: with other versions
of Python, Keras and TensorFlow, and with JAX or torch and no TensorFlow at all. A Python that this
machine lacks is looked for under pyenv; if there is none, the session says so and is skipped.
docs/versions.md has the last results.
"""

import os
import pathlib
import re

import nox

nox.options.sessions = ["package", "jax", "torch"]
nox.options.error_on_missing_interpreters = False
nox.options.default_venv_backend = "uv|virtualenv"  # uv installs several times faster than pip.
if "PIP_FIND_LINKS" in os.environ:  # uv has a variable of its own.
    os.environ.setdefault("UV_FIND_LINKS", ",".join(os.environ["PIP_FIND_LINKS"].split()))

# Beside keras_gamma and a backend.
TOOLS = ["hypothesis", "pytest", "pytest-xdist"]
NOTEBOOK = ["ipykernel", "nbclient", "scikit-learn"]
ROOMS = ["_keras", "network", "roles", "decay", "checks", "dynamics"]
# With SHARES=4 these sessions run another quarter each, of cases that are alike; 1 is all of them.
SHARES = int(os.environ.get("SHARES", "1"))
PLACES = {"hosted": 1, "oldest": 2, "py313": 3, "jax": 4, "torch": 1}
TORCH = os.environ.get("TORCH", "torch")  # e.g. torch==2.13.0


def python(version: str) -> str:
    """A Python of this version: pyenv's own if it has one, or whichever is on the path.

    (On the path pyenv has a command for each of its versions, which starts only some of them.)
    """
    installed = pathlib.Path.home().glob(f".pyenv/versions/{version}.*/bin/python")
    return str(next(installed, version))


def run_core(session: nox.Session, *packages: str, backend: str = "tensorflow") -> None:
    """Installs keras_gamma with these packages, and runs the tests of its rooms."""
    session.install(*packages, *TOOLS, "-e", ".")
    run_tests(session, backend)


def run_tests(session: nox.Session, backend: str = "tensorflow") -> None:
    """Runs the tests of the rooms, or those that are named behind `--`."""
    versions = (
        "import keras, sys; print('Python', sys.version.split()[0], 'Keras', keras.version())"
    )
    place = (PLACES.get(session.name, 1) - 1) % SHARES + 1
    env = {
        "KERAS_BACKEND": backend,
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "SHARE": f"{place}/{SHARES}",
    }
    session.run("python", "-c", versions, env=env)
    tests = session.posargs or [f"tests/{room}" for room in ROOMS]
    session.run("python", "-m", "pytest", "-q", "-n", "2", "-rs", *tests, env=env)


@nox.session(python=python("3.11"))
def newest(session: nox.Session) -> None:
    """The newest Keras and TensorFlow that the index has."""
    run_core(session, "keras", "tensorflow")


@nox.session(python=python("3.12"))
def hosted(session: nox.Session) -> None:
    """What hosted notebooks have: Python 3.12, Keras 3.10, TensorFlow 2.19; and the tutorial."""
    run_core(session, "keras==3.10.*", "tensorflow==2.19.*", *NOTEBOOK)
    if not session.posargs:
        tutorial = "tests/integration/test_pages.py::test_the_tutorial_runs"
        session.run("python", "-m", "pytest", "-q", tutorial)


@nox.session(python=python("3.10"))
def oldest(session: nox.Session) -> None:
    """The oldest of everything: Python 3.10, Keras 3.8, TensorFlow 2.18."""
    run_core(session, "keras==3.8.*", "tensorflow==2.18.*")


@nox.session(python=python("3.11"))
def middle(session: nox.Session) -> None:
    """Keras 3.12, and TensorFlow 2.20."""
    run_core(session, "keras==3.12.*", "tensorflow==2.20.*")


@nox.session(python=python("3.11"))
def recent(session: nox.Session) -> None:
    """Keras 3.14, before lists within lists had places in archives."""
    run_core(session, "keras==3.14.*", "tensorflow==2.20.*")


@nox.session(python=python("3.13"))
def py313(session: nox.Session) -> None:
    """The newest Python, with the newest Keras and TensorFlow."""
    run_core(session, "keras", "tensorflow")


@nox.session(python=python("3.11"))
def jax(session: nox.Session) -> None:
    """JAX, and no TensorFlow."""
    run_core(session, "keras", "jax", backend="jax")


@nox.session(python=python("3.11"))
def torch(session: nox.Session) -> None:
    """torch, and no TensorFlow."""
    run_core(session, "keras", TORCH, backend="torch")


@nox.session(python=python("3.12"))
def nightly(session: nox.Session) -> None:
    """Keras as it was last night: allowed to fail, and told."""
    session.install("tensorflow", *TOOLS, "-e", ".")
    pip = "uv pip uninstall" if session.venv_backend == "uv" else "python -m pip uninstall -y"
    session.run_install(*pip.split(), "keras")  # Both packages are installed as `keras`.
    session.install("--no-deps", "keras-nightly")
    try:
        run_tests(session)
    except nox.command.CommandFailed:
        session.warn("The Keras to come does not pass: see above. That does not fail anything.")


GRID = ["newest", "hosted", "oldest", "middle", "recent", "py313", "jax", "torch", "nightly"]


@nox.session(venv_backend="none")
def grid(session: nox.Session) -> None:
    """All of the sessions above, in turn."""
    for name in GRID:
        session.notify(name)


@nox.session(venv_backend="none")
def archives(session: nox.Session) -> None:
    """Archives written with one version are loaded with every other: see the script."""
    script = str(pathlib.Path("benchmarks", "archives_between.py"))
    folder = str(pathlib.Path(session.create_tmp(), "archives"))
    found = {name: pathlib.Path(".nox", name, "bin", "python") for name in GRID}
    for step in ("save", "load"):
        for name, interpreter in found.items():
            if not interpreter.exists():
                session.warn(f"no environment of {name}: run that session first")
                continue
            backend = name if name in ("jax", "torch") else "tensorflow"
            env = {"KERAS_BACKEND": backend, "PYTHONPATH": ".", "TF_CPP_MIN_LOG_LEVEL": "3"}
            session.run(str(interpreter), script, step, folder, env=env, external=True)


@nox.session(python=python("3.11"))
def build(session: nox.Session) -> None:
    """Builds the wheel and the source distribution, and checks them."""
    dist = session.create_tmp()
    session.install("build", "twine")
    session.run("python", "-m", "build", "--outdir", dist)
    session.run("twine", "check", "--strict", *map(str, pathlib.Path(dist).glob("keras_gamma-*")))


@nox.session(python=python("3.11"), requires=["build"])
@nox.parametrize("backend", ["tensorflow", "jax", "torch"], ids=["tensorflow", "jax", "torch"])
def package(session: nox.Session, backend: str) -> None:
    """The README's quick start runs from the wheel, one backend, and nothing else."""
    [wheel] = pathlib.Path(".nox", "build", "tmp").resolve().glob("*.whl")
    session.install(f"{wheel}[{backend},plot]", *([TORCH] if backend == "torch" else []))
    readme = pathlib.Path("README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    empty = pathlib.Path(session.create_tmp()).resolve()
    (empty / "quick_start.py").write_text("\n".join(blocks), encoding="utf-8")
    env = {"KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    if backend != "tensorflow":
        alone = "import importlib.util as u; assert u.find_spec('tensorflow') is None"
        session.run("python", "-c", alone)
    with session.chdir(empty):  # Away from the repository: nothing but the wheel can be imported.
        session.run("python", "quick_start.py", silent=True, env=env)
        session.run("keras_gamma", "--help", silent=True, env=env)
