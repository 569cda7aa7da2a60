"""Which tests run by default: all that are not `slow`, and one in so many of cases that are alike.

`pytest -m "slow or not slow"` runs everything. A test that is named (`file.py::test`) runs, too.

Random examples are the same ones each time; `HYPOTHESIS_PROFILE=random` draws others.
"""

import os
import re
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
    "RMSNormalization": "3.9",
    "rms_normalization": "3.9",
    "Muon": "3.10",
    "layer_normalization": "3.11",
}


def pytest_configure(config: pytest.Config) -> None:
    """Takes back the default choice where single tests are named."""
    if config.option.markexpr == "not slow" and any("::" in name for name in config.args):
        config.option.markexpr = ""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None, object, object]:
    """Skips a test that needs what this version of Keras lacks."""
    try:
        return (yield)
    except AttributeError as error:
        # Of the message, for Keras raises the errors of a `call` anew.
        found = re.search(r"module '(keras\.\S+)' has no attribute '(\w+)'", str(error))
        if found is None or found[2] not in NEWER:
            raise
        pytest.skip(f"needs {found[1]}.{found[2]}, of Keras {NEWER[found[2]]}")


@pytest.hookimpl(tryfirst=True)  # before pytest looks at the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of a test that bears `one_in(n)`, marks all but every n-th case as slow.

    Each test begins with a case of its own, so that tests over one table share it out.
    """
    cases: dict[str, list[pytest.Item]] = defaultdict(list)
    for item in items:
        if item.get_closest_marker("one_in") is not None:
            cases[item.nodeid.partition("[")[0]].append(item)
    for test, alike in cases.items():
        [step] = alike[0].get_closest_marker("one_in").args  # type: ignore[union-attr]
        first = zlib.crc32(test.encode()) % min(step, len(alike))
        for number, item in enumerate(alike):
            if number % step != first:
                item.add_marker("slow")
