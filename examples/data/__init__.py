"""Data sets, made or loaded, as tf.data pipelines."""
