"""The environments that keras_gamma is tested in, beside the README's: each a session of nox.

    nox --list
    nox --session jax py313
    nox --session grid archives         # all of them, in turn: an hour and more

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

# Beside keras_gamma and a backend.
TOOLS = ["hypothesis", "pytest", "pytest-xdist"]
NOTEBOOK = ["ipykernel", "nbclient", "scikit-learn"]
ROOMS = ["_keras", "network", "roles", "decay", "checks", "dynamics"]
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
    versions = (
        "import keras, sys; print('Python', sys.version.split()[0], 'Keras', keras.version())"
    )
    session.run("python", "-c", versions, env={"KERAS_BACKEND": backend})
    tests = session.posargs or [f"tests/{room}" for room in ROOMS]
    session.run(
        *("python", "-m", "pytest", "-q", "-n", "2", "-rs", *tests),
        env={"KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )


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
    """The newest pre-release of Keras, where the index has one: allowed to fail, and told."""
    try:
        run_core(session, "--pre", "keras", "tensorflow")
    except nox.command.CommandFailed:
        session.warn("The pre-release does not pass: see above. That does not fail anything.")


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
def package(session: nox.Session) -> None:
    """Builds and checks the wheel; the README's quick start runs from it and nothing else."""
    dist = session.create_tmp()
    session.install("build", "twine")
    session.run("python", "-m", "build", "--outdir", dist)
    built = sorted(str(path) for path in pathlib.Path(dist).glob("keras_gamma-*"))
    session.run("twine", "check", "--strict", *built)
    empty = pathlib.Path(dist).resolve() / "empty"
    empty.mkdir(exist_ok=True)
    readme = pathlib.Path("README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    (empty / "quick_start.py").write_text("\n".join(blocks), encoding="utf-8")
    [wheel] = [path for path in built if path.endswith(".whl")]
    session.run("python", "-m", "venv", "--clear", str(empty / "venv"))
    python = str(empty / "venv" / "bin" / "python")
    session.run(python, "-m", "pip", "install", "-q", f"{wheel}[tensorflow,plot]", external=True)
    with session.chdir(empty):  # Away from the repository: nothing but the wheel can be imported.
        session.run(python, "quick_start.py", external=True, silent=True)
        session.run(python, "-m", "keras_gamma", "--help", external=True, silent=True)
