"""keras-cv-attention-models on Keras 3: it knows Keras 3 by its first name, `keras_core`."""

import importlib
import os
import pkgutil
import sys

import keras

os.environ["KECAM_BACKEND"] = "keras_core"
sys.modules["keras_core"] = keras
for _module in pkgutil.iter_modules(keras.__path__):
    if not _module.name.startswith("_") and _module.name != "src":
        _name = f"keras.{_module.name}"
        sys.modules[f"keras_core.{_module.name}"] = importlib.import_module(_name)

from keras_cv_attention_models import models as models  # noqa: E402
