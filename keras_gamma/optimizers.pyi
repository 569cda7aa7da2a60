# The classes are made one by one from Keras' own: type checkers and editors learn their names here.
import keras

from .decay.optimizers import DecayByPath

class AdadeltaW(DecayByPath, keras.optimizers.Adadelta): ...  # type: ignore[misc]
class AdafactorW(DecayByPath, keras.optimizers.Adafactor): ...  # type: ignore[misc]
class AdagradW(DecayByPath, keras.optimizers.Adagrad): ...  # type: ignore[misc]
class AdamaxW(DecayByPath, keras.optimizers.Adamax): ...  # type: ignore[misc]
class AdamW(DecayByPath, keras.optimizers.AdamW): ...  # type: ignore[misc]
class LambW(DecayByPath, keras.optimizers.Lamb): ...  # type: ignore[misc]
class LionW(DecayByPath, keras.optimizers.Lion): ...  # type: ignore[misc]
class MuonW(DecayByPath, keras.optimizers.Muon): ...  # type: ignore[misc]
class NadamW(DecayByPath, keras.optimizers.Nadam): ...  # type: ignore[misc]
class RMSpropW(DecayByPath, keras.optimizers.RMSprop): ...  # type: ignore[misc]
class SGDW(DecayByPath, keras.optimizers.SGD): ...  # type: ignore[misc]
