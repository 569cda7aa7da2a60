"""Which tests run by default: all that are not `slow`, and one in so many of cases that are alike.

`pytest -m "slow or not slow"` runs everything. A test that is named (`file.py::test`) runs, too.

`SHARE=2/3` runs the second third of cases that are alike: for several environments, of which each
runs another third, and all of them the tests that have few cases. CI's slow tests come in halves.

Where a file asks for `steps`, its training steps run eagerly by default, as tracing them would take
most of its time; the slow tests trace and compile them.

Random examples are the same ones each time; `HYPOTHESIS_PROFILE=random` draws others.
"""

import contextlib
import os
import pathlib
import re
import traceback
import zlib
from collections import defaultdict
from collections.abc import Generator

import pytest
from hypothesis import settings

settings.register_profile("same", derandomize=True)
settings.register_profile("random", derandomize=False)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))

# What older versions of Keras lack: tests that use it are skipped there, and say so.
NEWER = {
    "RematScope": "3.9",
    "RMSNormalization": "3.9",
    "rms_normalization": "3.9",
    "Muon": "3.10",
    "layer_normalization": "3.11",
    "MultiOptimizer": "3.15",
    "OptimizerMap": "3.15",
}

TESTS = pathlib.Path(__file__).parent
PACKAGE = TESTS.parent / "keras_gamma"
MANY = 8  # Fewer cases of one test all run, whatever the share.


def pytest_configure(config: pytest.Config) -> None:
    """Takes back the default choice where single tests are named."""
    if config.option.markexpr == "not slow" and any("::" in name for name in config.args):
        config.option.markexpr = ""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """Processes share out files, not tests: runs that a file's tests look at are done once.

    In the order in which they are: long files come before short ones.
    """
    from xdist.scheduler import LoadFileScheduling

    config.option.loadscopereorder = False
    return LoadFileScheduling(config, log)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Gives `steps` its two values, unless a test chooses; only TensorFlow has both."""
    chosen = any(m.args[0] == "steps" for m in metafunc.definition.iter_markers("parametrize"))
    if "steps" not in metafunc.fixturenames or chosen:
        return
    import keras  # Here, for tests of graphs and values need no backend.

    ways: list[object] = ["traced"]
    if keras.backend.backend() == "tensorflow":
        ways = ["eager", pytest.param("traced", marks=pytest.mark.slow)]
    metafunc.parametrize("steps", ways, indirect=True)


@pytest.fixture
def steps(request: pytest.FixtureRequest) -> Generator[None]:
    """How training steps run: "eager" or "traced"."""
    if request.param == "traced":
        yield
        return
    import tensorflow as tf

    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup() -> Generator[None, object, object]:
    """Skips a test whose fixtures use what this version of Keras lacks."""
    with _skipped_if_newer():
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None, object, object]:
    """Skips a test that itself uses what this version of Keras lacks."""
    with _skipped_if_newer():
        return (yield)


@contextlib.contextmanager
def _skipped_if_newer() -> Generator[None]:
    try:
        yield
    except AttributeError as error:
        # Of the message, for Keras raises the errors of a `call` anew.
        found = re.search(r"module '(keras[.\w]*)' has no attribute '(\w+)'", str(error))
        if found is None or found[2] not in NEWER or _raised_by_keras_gamma(error):
            raise
        pytest.skip(f"needs {found[1]}.{found[2]}, of Keras {NEWER[found[2]]}")


def _raised_by_keras_gamma(error: Exception) -> bool:
    """Whether the innermost line that is ours is one of the package, which must do without."""
    files = [pathlib.Path(f.filename) for f in traceback.extract_tb(error.__traceback__)]
    ours = [f for f in files if TESTS in f.parents or PACKAGE in f.parents]
    return bool(ours) and PACKAGE in ours[-1].parents


@pytest.hookimpl(tryfirst=True)  # before pytest looks at the marks
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Thins out cases that are alike: as tests say by their marks, and as the environment says.

    Each test begins with a case of its own, so that tests over one table share it out. SHARE=1/4
    takes a quarter of them, SLOW_HALF=0 or 1 one half of the slow tests that are like no others.
    """
    cases: dict[tuple[str, object], list[pytest.Item]] = defaultdict(list)
    for item in items:
        way = item.callspec.params.get("steps") if hasattr(item, "callspec") else None
        cases[item.nodeid.partition("[")[0], way].append(item)
    share, shares = map(int, os.environ.get("SHARE", "1/1").split("/"))
    left_out: set[pytest.Item] = set()
    for (test, _), alike in cases.items():
        first = zlib.crc32(test.encode()) + share - 1
        mark = alike[0].get_closest_marker("one_in")
        if mark is not None:
            [step] = mark.args
            start = first % min(step, len(alike))
            slow = [item for number, item in enumerate(alike) if (number - start) % step]
            for item in slow:
                item.add_marker("slow")
            left_out.update(item for i, item in enumerate(slow) if (i - share) % shares)
        elif len(alike) >= MANY:
            left_out.update(c for i, c in enumerate(alike) if (i - first) % shares)
        elif os.environ.get("SLOW_HALF") == str(zlib.crc32(test.encode()) % 2):
            left_out.update(item for item in alike if item.get_closest_marker("slow"))
    if left_out:
        items[:] = [item for item in items if item not in left_out]
        config.hook.pytest_deselected(items=[*left_out])
