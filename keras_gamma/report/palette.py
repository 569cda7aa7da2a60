"""Every colour that is shown: of roles, and of the rest of a picture, on light and dark ground.

The roles' are from Okabe & Ito's palette, told apart by the colour-blind. The keys are the values
of `Role`, which are plain strings: this room stands below the one that defines it.
"""

COLORS: dict[str, str] = {
    "residual_last": "#0072B2",
    "shortcut": "#E69F00",
    "interior": "#009E73",
    "trunk": "#D55E00",
    "other": "#7F7F7F",
}

INK = "#222222"  # Text, skips, and joins.
PAPER = "#FFFFFF"
EDGE = "#999999"  # What is no skip.
PLAIN, PLAIN_INK, RIM = "#F4F4F4", "#444444", "#BBBBBB"  # A layer without a γ.
BARE = "#D9D9D9"  # A normalization without a γ.
CLOSED = PLAIN_INK  # A part that could not be opened.

# What stands for each of them where the ground is dark.
DARK: dict[str, str] = {
    INK: "#E8E8E8",
    PAPER: "#1B1B1B",
    EDGE: "#8C8C8C",
    PLAIN: "#2C2C2C",
    PLAIN_INK: "#D0D0D0",
    RIM: "#5A5A5A",
    BARE: "#505050",
}

# On the roles' colours, which are the same on any ground: not the white of the paper.
BLACK, WHITE = "#000000", "#FEFEFE"


def ink_on(color: str) -> str:
    """Black or white, whichever is read more easily on a colour (WCAG's relative luminance).

    Args:
        color: string, `#rrggbb`.

    Example:

    >>> from keras_gamma.report.palette import ink_on
    >>> ink_on("#0072B2"), ink_on("#E69F00")
    ('#FEFEFE', '#000000')
    """
    shares = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares]
    luminance = sum(w * s for w, s in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
    return BLACK if (luminance + 0.05) / 0.05 > 1.05 / (luminance + 0.05) else WHITE
