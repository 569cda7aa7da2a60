"""The tables of operations: each operation stands in one of them, once."""

import collections
import inspect

from keras_gamma.network import operations

TABLES = (
    "_SUMS",
    "_IDENTITIES",
    "_LINEAR",
    "_PRODUCTS",
    "_SOFTMAXES",
    "_NORMS",
    "_HOMOGENEOUS",
    "_NONLINEAR",
    "_SCALELESS",
    "_UNSEEN",
    "_UNKNOWN",
)


def test_the_tables_are_disjoint():
    names = collections.Counter(name for t in TABLES for name in getattr(operations, t))
    assert [name for name, times in names.items() if times > 1] == []
    assert len(names) > 300


def test_no_table_names_an_operation_twice():
    source = inspect.getsource(operations)
    for table in TABLES:
        text = source.split(f"\n{table} = _names(")[1].split("\n)")[0].split(")\n")[0]
        words = text.replace('"', " ").split()
        assert [w for w, times in collections.Counter(words).items() if times > 1] == [], table
        assert set(words) == getattr(operations, table)
