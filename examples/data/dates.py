"""Dates in words and as ISO 8601 writes them: a translation that is made on the spot.

>>> import datetime
>>> in_words(datetime.date(1984, 11, 21), 2)
'the twenty-first of november nineteen eighty-four'
"""

import datetime

import numpy as np

FIRST, LAST = datetime.date(1900, 1, 1), datetime.date(2099, 12, 31)
_DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_MONTHS = (
    "january", "february", "march", "april", "may", "june", "july", "august", "september",
    "october", "november", "december",
)  # fmt: skip
_UNITS = (
    "", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven",
    "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
_TENS = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_ORDINALS = {
    "one": "first", "two": "second", "three": "third", "five": "fifth", "eight": "eighth",
    "nine": "ninth", "twelve": "twelfth",
}  # fmt: skip
WAYS = 4


def pairs(count: int, seed: int = 0) -> list[tuple[str, str]]:
    """Returns pairs of a date in words and in ISO 8601; no day comes twice.

    Args:
        count: how many; at most as many as there are days.
        seed: of which days, and in which way each is told.
    """
    random = np.random.default_rng(seed)
    days = (LAST - FIRST).days + 1
    chosen = random.permutation(days)[:count]
    ways = random.integers(0, WAYS, len(chosen))
    found = []
    for day, way in zip(chosen.tolist(), ways.tolist(), strict=True):
        date = FIRST + datetime.timedelta(days=day)
        found.append((in_words(date, way), date.isoformat()))
    return found


def in_words(date: datetime.date, way: int) -> str:
    """Returns a date in words, in one of `WAYS` ways."""
    day, month = _ordinal(date.day), _MONTHS[date.month - 1]
    year = _year(date.year)
    return (
        f"{_DAYS[date.weekday()]}, {month} the {day}, {year}",
        f"{month} {day} {year}",
        f"the {day} of {month} {year}",
        f"on the {day} day of {month} in the year {year}",
    )[way]


def _ordinal(number: int) -> str:
    words, dash, last = _cardinal(number).rpartition("-")
    regular = last[:-1] + "ieth" if last.endswith("y") else last + "th"
    return words + dash + _ORDINALS.get(last, regular)


def _cardinal(number: int) -> str:
    if number < len(_UNITS):
        return _UNITS[number]
    tens, units = divmod(number, 10)
    return _TENS[tens] + ("-" + _UNITS[units] if units else "")


def _year(year: int) -> str:
    century, rest = divmod(year, 100)
    if year == 2000:
        return "two thousand"
    if 2000 < year < 2010:
        return f"two thousand and {_cardinal(rest)}"
    if rest == 0:
        return f"{_cardinal(century)} hundred"
    return f"{_cardinal(century)} {'oh-' if rest < 10 else ''}{_cardinal(rest)}"
