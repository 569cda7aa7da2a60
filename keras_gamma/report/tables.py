"""A stand-in until every report is a `Report`."""

from collections.abc import Iterable, Sequence

from keras_gamma.report.text import full


def table(header: Sequence[str], rows: Iterable[Sequence[object]], caption: str) -> str:
    return full(header, [[str(cell) for cell in row] for row in rows], caption)
