"""Numbers that stand for no piece of text, the same in every vocabulary."""

PAD = 0  # what fills a text up
UNKNOWN = 1
START = 2  # In ASCII, too, 2 and 3 are "start of text" and "end of text".
END = 3
