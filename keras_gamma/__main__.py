"""`python -m keras_gamma`: see `keras_gamma.cli`."""

from keras_gamma.cli import run

if __name__ == "__main__":
    run()
