"""The environments that keras_gamma is tested in, beside the README's: each a session of nox.

    nox --list
    nox --session jax py313

The README's test command runs every test with the newest versions. These run the tests of the
library's rooms, which need neither the examples nor their packages, elsewhere: with other versions
of Python, Keras and TensorFlow, and with JAX or torch and no TensorFlow at all.
"""

import os
import pathlib
import re

import nox

nox.options.sessions = ["package", "jax", "torch"]
nox.options.error_on_missing_interpreters = True

# Beside keras_gamma and a backend.
TOOLS = ["hypothesis", "pytest", "pytest-xdist"]
ROOMS = ["_keras", "network", "roles", "decay", "checks", "dynamics", "models"]
TORCH = os.environ.get("TORCH", "torch")  # e.g. torch==2.13.0


def run_core(session: nox.Session, *packages: str, backend: str = "tensorflow") -> None:
    """Installs keras_gamma with these packages, and runs the tests of its rooms."""
    session.install(*packages, *TOOLS, "-e", ".")
    tests = [f"tests/{room}" for room in ROOMS if pathlib.Path("tests", room).exists()]
    session.run(
        *("python", "-m", "pytest", "-q", "-n", "2", *tests, *session.posargs),
        env={"KERAS_BACKEND": backend},
    )


@nox.session(python="3.11")
def newest(session: nox.Session) -> None:
    """The newest Keras and TensorFlow that the index has."""
    run_core(session, "keras", "tensorflow")


@nox.session(python="3.12")
def py312(session: nox.Session) -> None:
    """What hosted notebooks have: Keras 3.10, TensorFlow 2.19. Not supported: some tests fail."""
    run_core(session, "keras==3.10.*", "tensorflow==2.19.*")


@nox.session(python="3.11")
def oldest(session: nox.Session) -> None:
    """The release before what setup.py admits. Not supported: archives keep weights elsewhere."""
    run_core(session, "keras==3.14.*", "tensorflow==2.20.*")


@nox.session(python="3.13")
def py313(session: nox.Session) -> None:
    """The newest Python, with the newest Keras and TensorFlow."""
    run_core(session, "keras", "tensorflow")


@nox.session(python="3.11")
def jax(session: nox.Session) -> None:
    """JAX, and no TensorFlow."""
    run_core(session, "keras", "jax", backend="jax")


@nox.session(python="3.11")
def torch(session: nox.Session) -> None:
    """torch, and no TensorFlow."""
    run_core(session, "keras", TORCH, backend="torch")


@nox.session(python="3.12")
def nightly(session: nox.Session) -> None:
    """The newest pre-release of Keras, where the index has one: allowed to fail, and told."""
    run_core(session, "--pre", "keras", "tensorflow")


@nox.session(python="3.11")
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
