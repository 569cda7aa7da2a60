"""A scratch graph leaves TensorFlow as it was, and other threads alone."""

import threading

import keras
import numpy as np
import pytest

from keras_gamma._keras.tensorflow_graph import ScratchGraph

tf = pytest.importorskip("tensorflow")


def replaced():
    from tensorflow.python.ops import while_loop

    return while_loop.while_loop, vars(type(tf.function(lambda: None)))["__call__"]


def test_compiled_functions_are_run_as_they_are_written_in_this_thread_alone():
    @tf.function
    def graph_of(x):
        graphs.append((tf.compat.v1.get_default_graph(), tf.executing_eagerly()))
        return x + 1.0

    before, graphs = replaced(), []
    scratch = ScratchGraph()
    with scratch.entered():
        assert replaced() != before
        graph_of(tf.constant(1.0))
        elsewhere = threading.Thread(target=lambda: graph_of(tf.constant([1.0])))
        elsewhere.start()
        elsewhere.join()
    (here, _), (other, is_eager) = graphs
    assert here is scratch._graph
    assert other is not here
    assert not is_eager
    assert replaced() == before


def test_an_error_leaves_tensorflow_as_it_was():
    before = replaced()
    with pytest.raises(KeyboardInterrupt), ScratchGraph().entered():
        raise KeyboardInterrupt
    assert replaced() == before


def test_a_constant_is_made_once():
    scratch = ScratchGraph()
    with scratch.entered():
        one, same, other = tf.constant([1, 2]), tf.constant([1, 2]), tf.constant([1.0, 2.0])
    assert one.op is same.op
    assert other.op is not one.op
    assert scratch.evaluate(other).numpy().tolist() == [1.0, 2.0]


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="asks for Keras' variables")
def test_a_number_is_known_for_other_values_of_the_variables_behind_it():
    weight, unused = keras.Variable([1.0, 2.0]), keras.Variable([5.0, 6.0])
    elsewhere = tf.convert_to_tensor(weight) * 2.0
    scratch = ScratchGraph()
    with scratch.entered():
        found = scratch.constant(1.0 + tf.cast(tf.convert_to_tensor(weight), "float64"))
        part = scratch.constant(tf.gather(weight.value, [1]))
        given = scratch.constant(elsewhere + 1.0)
        # Also while the graph is written.
        assert found.number_with([(weight, np.array([3.0, 4.0], "float32"))]).numpy().tolist() == [
            4.0,
            5.0,
        ]
    assert found.number().numpy().tolist() == [2.0, 3.0]
    assert found.number_with([(unused, np.zeros(2))]) is None
    for constant in (part, given):
        with pytest.raises(NotImplementedError):
            constant.number_with([(weight, np.zeros(2))])
