"""Folding of names, without any model: what is folded, and that nothing is lost or made up."""

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_gamma.report.folding import fold, kind_of


def names(*found):
    return [(one.name, len(one.rows)) for one in found]


def fold_all(*texts):
    return names(*fold(texts, [None] * len(texts)))


def test_a_product_of_numbers_is_one_line():
    texts = [f"conv{i}_block{j}_bn/gamma" for i in (2, 3) for j in range(1, 7)]
    assert fold_all(*texts) == [("conv[2-3]_block[1-6]_bn/gamma", 12)]


def test_what_is_no_product_is_several_lines():
    texts = [f"conv2_block{j}" for j in range(1, 4)] + [f"conv3_block{j}" for j in range(1, 5)]
    assert fold_all(*texts) == [("conv2_block[1-3]", 3), ("conv3_block[1-4]", 4)]


def test_the_order_of_merging_is_the_best_one():
    # By stage first, it would be four lines.
    sizes = {1: 2, 2: 3, 3: 4, 4: 5}
    texts = [f"s{i}_b{j}" for i, n in sizes.items() for j in range(n)]
    assert fold_all(*texts) == [(f"s{i}_b[0-{n - 1}]", n) for i, n in sizes.items()]


def test_a_number_that_counts_along_is_a_range():
    texts = [f"stage_{i // 3}/block_{i % 3}/norm_{i + 7}/gamma" for i in range(6)]
    assert fold_all(*texts) == [("stage_[0-1]/block_[0-2]/norm_[7-12]/gamma", 6)]


def test_only_rows_with_equal_keys_are_folded():
    assert names(*fold(["a1", "a2", "a3"], ["x", "y", "x"])) == [("a[1,3]", 2), ("a2", 1)]


def test_many_parts_are_shortened_and_counted():
    assert fold_all(*[f"a{i}" for i in range(0, 20, 2)]) == [("a[0,2,…,18]", 10)]


def test_names_without_numbers_and_equal_names():
    assert fold_all("gamma", "scale") == [("gamma", 1), ("scale", 1)]
    assert fold_all("bn1", "bn1", "bn2") == [("bn[1-2]", 3)]
    assert fold_all("a01", "a02", "a1") == [("a[01,1,02]", 3)]
    assert fold_all("a08", "a09", "a10") == [("a[08-10]", 3)]
    assert fold_all() == []


def written_out(name):
    """All names that a folded one stands for."""
    parts = []
    for part in re.split(r"(\[[^]]*\])", name):
        numbers = []
        for piece in part.strip("[]").split(",") if part.startswith("[") else ():
            first, _, last = piece.partition("-")
            numbers += [str(i) for i in range(int(first), int(last or first) + 1)]
        parts.append(numbers or [part])
    return {"".join(words) for words in itertools.product(*parts)}


@given(st.sets(st.tuples(st.integers(0, 3), st.integers(0, 3), st.booleans()), max_size=20))
def test_every_row_is_in_one_line_and_the_lines_name_nothing_else(points):
    texts = [f"s{i}_b{j}/{'gamma' if flag else 'scale'}" for i, j, flag in sorted(points)]
    found = fold(texts, [None] * len(texts))
    assert sorted(row for one in found for row in one.rows) == list(range(len(texts)))
    for one in found:
        members = {texts[row] for row in one.rows}
        meant = written_out(one.name)
        # Where a number counts along, the name stands for more than there is; never for less.
        assert members <= meant
        if len(one.rows) == len(meant):
            assert members == meant


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        ("It joins at 'add_1', ×4.", "It joins at 'add_22', ×4.01.", True),
        ("It joins at 'add_1'.", "It leaves at 'add_1'.", False),
        ("ratio 1e-05", "ratio 3.2e+4", True),
    ],
)
def test_kinds_of_sentences(one, other, alike):
    assert (kind_of(one) == kind_of(other)) is alike
