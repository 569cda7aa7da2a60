"""What a report shows: on a terminal, in a notebook, as JSON and as a data frame."""

import dataclasses
import enum
import html.parser
import json
import re
import sys

import pytest

from keras_gamma.report import Column, Report
from keras_gamma.report.columns import number


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclasses.dataclass
class Row:
    path: str
    role: str | None
    strength: float = 0.0
    reason: str = ""


class Rows(Report[Row]):
    format = "test.rows"
    columns = (
        Column("path", "γ"),
        Column("role", colored=True),
        Column("strength", "l2", text=number),
        Column("reason", prose=True),
    )

    def summary(self):
        return f"{len(self)} rows."


def blocks(n):
    return Rows(
        [
            Row(f"stage2/block{i}_bn/gamma", "interior", 5e-5, f"Absorbed by 'conv{i}_bn'.")
            for i in range(1, n + 1)
        ]
        + [Row("head/gamma", "trunk", 0.0, "It reaches an output.")]
    )


def test_it_is_a_sequence():
    report = blocks(2)
    assert len(report) == 3 and report[-1].path == "head/gamma"
    assert [row.role for row in report[:2]] == ["interior", "interior"]
    assert report[0] in report


def test_printed_it_is_folded_and_each_kind_of_reason_is_said_once(monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    text = str(blocks(300))
    assert max(map(len, text.splitlines())) <= 60
    assert re.search(r"stage2/block\[1-300\]_bn/gamma +×300 +interior +5e-05\n", text)
    assert re.search(r"head/gamma +×1 +trunk +–\n", text)
    assert "interior: Absorbed by 'conv1_bn'. (299 more alike.)" in text
    assert "trunk: It reaches an output.\n" in text
    assert text.endswith("\n301 rows.")
    assert len(text.splitlines()) < 10


def test_every_row_is_in_the_table_and_names_are_not_broken(monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    long = "a_very_long_name_of_a_layer/" * 4 + "gamma"
    text = Rows([Row(long, "interior"), *blocks(30)]).table()
    assert long in text
    assert all(f"stage2/block{i}_bn/gamma" in text for i in range(1, 31))
    assert "Absorbed by 'conv17_bn'." in text


def test_long_names_break_at_their_joints(monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    name = "backbone/transformer_layer_7/self_attention_layer_norm/gamma"
    lines = [line.split()[0] for line in str(Rows([Row(name, "trunk")])).splitlines()[2:4]]
    assert "".join(lines) == name
    assert lines[0].endswith("/")


@pytest.mark.parametrize("name", [":smile:", "[bold]x[/bold]", "[link=x]", "\\[a]", "层"])
def test_names_are_taken_literally(name):
    report = Rows([Row(name, "trunk", reason=f"Behind '{name}'.")])
    assert name in report.table()
    assert name in str(report)
    assert f"Behind '{name}'." in str(report)


def test_a_report_that_cannot_be_folded_still_fits_a_screen():
    letters = [chr(97 + i // 26) + chr(97 + i % 26) for i in range(200)]
    text = str(Rows([Row(name, "other", reason=f"{name} it is.") for name in letters]))
    assert "160 more lines: table() shows every row" in text
    assert "188 more kinds of reason" in text
    assert len(text.splitlines()) < 60


def test_an_empty_report():
    assert str(Rows([])) == "0 rows."
    assert json.loads(Rows([]).to_json())["entries"] == []
    assert "0 rows." in Rows([])._repr_html_()
    assert repr(Rows([])) == "<Rows: 0 rows.>"


def test_json_has_every_row():
    content = json.loads(blocks(2).to_json())
    assert content["format"] == "test.rows"
    assert content["entries"][2] == {
        "path": "head/gamma",
        "role": "trunk",
        "strength": 0.0,
        "reason": "It reaches an output.",
    }


def test_values_of_enums_are_plain_in_json_and_frames():
    report = Rows([Row("a", Color.RED)])
    assert json.loads(report.to_json())["entries"][0]["role"] == "red"
    assert report._counts(Color, "role") == {Color.RED: 1, Color.BLUE: 0}


def test_a_data_frame_has_a_column_for_each_of_the_table():
    pytest.importorskip("pandas")
    frame = blocks(2).to_dataframe()
    assert list(frame.columns) == ["path", "role", "strength", "reason"]
    assert list(frame.role) == ["interior", "interior", "trunk"]
    assert frame.strength.sum() == pytest.approx(1e-4)


def test_without_pandas_the_error_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="pip install pandas"):
        blocks(1).to_dataframe()


class Reader(html.parser.HTMLParser):
    """Checks that tags are closed, and collects text, titles and colours."""

    def __init__(self, text):
        super().__init__()
        self.open, self.words, self.titles, self.colors = [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if tag not in ("wbr", "br"):
            self.open.append(tag)
        self.titles += [attributes["title"]] if "title" in attributes else []
        self.colors += [attributes["style"]] if "style" in attributes else []

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def test_a_notebook_shows_roles_in_colour_and_reasons_on_hover():
    page = Reader(blocks(3)._repr_html_())
    assert "Absorbed by 'conv1_bn'." in page.titles
    assert {"background:#009E73", "background:#D55E00"} <= set(page.colors)
    assert page.words.count("gamma") == 2 + 4  # Two lines, and the four rows behind them.
    assert "Every row (4)" in page.words


def test_a_line_break_is_never_within_a_word():
    text = blocks(1)._repr_html_()
    assert "gamma</span>" in text
    for word in re.findall(r'<span class="word">([^<]*)</span>', text):
        assert not re.search(r"[/_](?=.)", word)
    assert ".word { white-space: nowrap; }" in text


def test_html_is_escaped():
    report = Rows([Row("<script>alert(1)</script>", "trunk", reason='"><b>')])
    text = report._repr_html_()
    assert "<script>" not in text and "<b>" not in text
    Reader(text)
