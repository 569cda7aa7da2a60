"""Colours of the roles, the same in every picture; told apart by the colour-blind (Okabe & Ito)."""

from keras_gamma.roles.classification import Role

COLORS = {
    Role.RESIDUAL_LAST: "#0072B2",
    Role.SHORTCUT: "#E69F00",
    Role.INTERIOR: "#009E73",
    Role.TRUNK: "#D55E00",
    Role.OTHER: "#7F7F7F",
}
