"""Whether a layer still holds the variables that were decided on: it may have been built anew."""

from __future__ import annotations

from collections.abc import Mapping

import keras


class Held:
    """By which attributes one layer holds the variables that were decided on, as far as by any."""

    def __init__(self) -> None:
        self._names: dict[int, str] = {}  # By the variable's number in the layer.

    def note(self, layer: keras.Layer, number: int, variable: keras.Variable) -> list[int]:
        """Notes how `layer` holds a variable.

        Returns:
            The numbers of those that it held so before: they are out of use.
        """
        name = next((key for key, value in vars(layer).items() if value is variable), None)
        if name is None:
            self._names.pop(number, None)
            return []
        old = [one for one, known in self._names.items() if known == name and one != number]
        for one in old:
            del self._names[one]
        self._names[number] = name
        return old

    def replaced(
        self, layer: keras.Layer, decided: Mapping[int, keras.Variable]
    ) -> list[keras.Variable]:
        """Those of the variables, by number, in place of which `layer` trains another now."""
        found = []
        for number, variable in decided.items():
            now = vars(layer).get(self._names.get(number, ""))
            if isinstance(now, keras.Variable) and now is not variable and now.trainable:
                found.append(variable)
        return found
