"""What to say where Keras finds no backend: none is required, so that nobody downloads two."""

BACKENDS = ("tensorflow", "jax", "torch")


class BackendMissingError(ImportError):
    """Keras' backend is not installed; the message says what to install."""


def explain(error: ModuleNotFoundError) -> BackendMissingError | None:
    """Returns what to raise in place of an error, or `None` if no backend is what is missing."""
    wanted = (error.name or "").partition(".")[0]
    if wanted not in BACKENDS:
        return None
    extras = ", ".join(f"'keras_gamma[{name}]'" for name in BACKENDS)
    return BackendMissingError(
        f"Keras runs on {wanted} here, which is not installed: pip install one of {extras}, and "
        "say which by KERAS_BACKEND (tensorflow is the default)."
    )
