"""The functions of this room under one name, for those who need several of them."""

from keras_gamma._keras.devices import inside_a_strategy as inside_a_strategy
from keras_gamma._keras.interception import intercept_symbolic_calls as intercept_symbolic_calls
from keras_gamma._keras.layers import flatten_layers as flatten_layers
from keras_gamma._keras.layers import has_mask as has_mask
from keras_gamma._keras.layers import is_graph_operation as is_graph_operation
from keras_gamma._keras.layers import is_layer_of_keras as is_layer_of_keras
from keras_gamma._keras.layers import is_operation_class_of_keras as is_operation_class_of_keras
from keras_gamma._keras.layers import name_of_input as name_of_input
from keras_gamma._keras.layers import sublayers as sublayers
from keras_gamma._keras.optimizers import WeightDecayHook as WeightDecayHook
from keras_gamma._keras.optimizers import copy_exclusions as copy_exclusions
from keras_gamma._keras.optimizers import exclude as exclude
from keras_gamma._keras.optimizers import gradients_added_first as gradients_added_first
from keras_gamma._keras.optimizers import is_decayed as is_decayed
from keras_gamma._keras.optimizers import path_of as path_of
from keras_gamma._keras.optimizers import stand_in as stand_in
from keras_gamma._keras.optimizers import variables_of as variables_of
from keras_gamma._keras.preservation import preserve_attributes as preserve_attributes
from keras_gamma._keras.preservation import preserve_auto_names as preserve_auto_names
from keras_gamma._keras.training import TracedStep as TracedStep
from keras_gamma._keras.training import initial_epoch as initial_epoch
from keras_gamma._keras.training import symbolic_build as symbolic_build
from keras_gamma._keras.training import traced_before as traced_before
from keras_gamma._keras.training import traced_steps as traced_steps
