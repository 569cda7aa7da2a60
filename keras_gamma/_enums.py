"""`StrEnum`, which Python has from 3.11 on."""

import sys

if sys.version_info >= (3, 11):
    from enum import StrEnum as StrEnum
else:
    import enum

    class StrEnum(str, enum.Enum):
        """An enum whose members are strings, and print as such."""

        __str__ = str.__str__
        __format__ = str.__format__
