"""Why something could not be called or opened, in one short line."""

import re

_LONGEST = 240


class TraceError(Exception):
    """Neither the model's `call` nor Keras' own shape inference works on the inputs."""


def first_sentence(error: BaseException) -> str:
    """What an error says, without what Keras wraps around it."""
    text = " ".join(str(error).split()) or type(error).__name__
    # What Keras wraps around the cause: colours, and the name of an operation.
    text = re.sub(r"\x1b\[\d+m", "", text)
    text = re.sub(r"^(Exception encountered when calling \S+\.call\(\)\. )+", "", text)
    if text.startswith("A KerasTensor cannot be used as input to a"):
        return "its call hands tensors to raw backend code, past keras.ops"
    # Keras appends the arguments of the call, at length.
    text = text.split(" Arguments received by ")[0]
    first = text.split(". ")[0].rstrip(".:")
    return first if len(first) <= _LONGEST else first[: _LONGEST - 1] + "…"
