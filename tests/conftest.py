"""Which tests run by default: all that are not `slow`, and one in so many of cases that are alike.

`pytest -m "slow or not slow"` runs everything. A test that is named (`file.py::test`) runs, too.
"""

import zlib
from collections import defaultdict

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Takes back the default choice where single tests are named."""
    if config.option.markexpr == "not slow" and any("::" in name for name in config.args):
        config.option.markexpr = ""


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
