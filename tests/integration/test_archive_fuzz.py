"""Mutated archives and plans.

Fifty; `KERAS_GAMMA_FUZZ=10000 pytest tests/integration/test_archive_fuzz.py` makes many.
"""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from tests.integration.archive_fuzzer import is_odd

pytestmark = pytest.mark.slow
COUNT = int(os.environ.get("KERAS_GAMMA_FUZZ", "50"))
SEED = int(os.environ.get("KERAS_GAMMA_FUZZ_SEED", "1"))


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """In a process of its own, whose memory can be told from pytest's."""
    worker = pathlib.Path(__file__).with_name("archive_fuzzer.py")
    if not pathlib.Path("/proc/self/clear_refs").exists():
        pytest.skip("peak memory is read from /proc")
    run = subprocess.run(
        [sys.executable, str(worker), str(COUNT), str(SEED), str(tmp_path_factory.mktemp("fuzz"))],
        capture_output=True,
        text=True,
        check=False,
        cwd=worker.parents[2],
    )
    found = [json.loads(line) for line in run.stdout.splitlines() if line.startswith("{")]
    assert run.returncode == 0, (run.returncode, found[-1:], run.stderr[-2000:])
    assert len(found) == COUNT
    return found


def test_some_are_refused_and_some_are_read(outcomes):
    """Else the mutations would be too wild, or too tame."""
    assert {"read", "refused"} <= {outcome["result"] for outcome in outcomes}


def test_none_hangs(outcomes):
    assert [o for o in outcomes if o["result"] == "hangs"] == []


def test_none_changes_a_model(outcomes):
    assert [o for o in outcomes if o["result"] == "changed"] == []


def test_none_takes_much_memory(outcomes):
    assert [o for o in outcomes if o["mib"] > 500] == []


def test_each_error_is_one_line_that_says_what_is_wrong(outcomes):
    assert [o for o in outcomes if is_odd(o)] == []
