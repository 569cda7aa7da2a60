"""A scratch graph leaves TensorFlow as it was, and other threads alone."""

import threading

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
