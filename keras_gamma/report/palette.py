"""Colours of the roles, the same wherever one is shown; told apart by the colour-blind.

From Okabe & Ito's palette. The keys are the values of `Role`, which are plain strings: this room
stands below the one that defines it.
"""

COLORS: dict[str, str] = {
    "residual_last": "#0072B2",
    "shortcut": "#E69F00",
    "interior": "#009E73",
    "trunk": "#D55E00",
    "other": "#7F7F7F",
}
