"""The three answers of a check."""

from typing import Final, Literal

Answer = Literal["yes", "no", "could not tell"]

YES: Final = "yes"
NO: Final = "no"
COULD_NOT_TELL: Final = "could not tell"


def answer(disagreements: object, unseen: object) -> Answer:
    """The answer of a check that found `disagreements`, and could not look at `unseen`.

    Only "yes" is as good as it sounds.

    Example:

    >>> answer([], ["the compiled step"])
    'could not tell'
    """
    if disagreements:
        return NO
    return COULD_NOT_TELL if unseen else YES
