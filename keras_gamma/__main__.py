"""`python -m keras_gamma MODEL.keras`: the residual roles of a saved model, as a table.

    python -m keras_gamma model.keras                      # the table of roles
    python -m keras_gamma model.keras --json               # the same for programs
    python -m keras_gamma model.keras --apply --weight_decay=1e-4 --output=regularized.keras

Exit codes: 0, all went well; 1, the model could not be read, analysed or written; 2, the
command line was wrong.
"""

import json
import os
import pathlib
import sys
import warnings
import zipfile

from absl import flags

from keras_gamma import _quiet

_FLAGS = flags.FlagValues()
_JSON = flags.DEFINE_bool("json", False, "Print JSON.", flag_values=_FLAGS)
_APPLY = flags.DEFINE_bool(
    "apply", False, "Set the regularizers and write the model to --output.", flag_values=_FLAGS
)
_OUTPUT = flags.DEFINE_string(
    "output", None, "With --apply: the .keras file to write.", flag_values=_FLAGS
)
_WEIGHT_DECAY = flags.DEFINE_float(
    "weight_decay",
    None,
    "With --apply: strength in torch's and timm's units (gradient weight_decay·γ).",
    flag_values=_FLAGS,
)
_L2 = flags.DEFINE_float(
    "l2", None, "With --apply: strength in Keras' units (penalty l2·Σγ²).", flag_values=_FLAGS
)
_GUIDELINES = flags.DEFINE_string(
    "guidelines",
    "paper",
    "With --apply: paper, none, all, or role=factor pairs such as residual_last=1,interior=0.5.",
    flag_values=_FLAGS,
)
_OVERWRITE = flags.DEFINE_bool(
    "overwrite",
    False,
    "With --apply: replace regularizers on γ that the model has already, and an existing output.",
    flag_values=_FLAGS,
)
_INPUT_SHAPE = flags.DEFINE_list(
    "input_shape",
    None,
    "For a model that does not know its inputs: the shape, batch first, such as none,32,32,3.",
    flag_values=_FLAGS,
)
flags.DEFINE_bool("help", False, "Show this help.", short_name="h", flag_values=_FLAGS)

USAGE = 2
FAILURE = 1


class _UsageError(Exception):
    pass


def main(argv=None):
    """Runs the command line.

    Args:
        argv: list of strings, `sys.argv` by default.

    Returns:
        The exit code.
    """
    argv = sys.argv if argv is None else argv
    try:
        path, inputs = _parse(argv)
        if path is None:
            print(_help())
            return 0
        print(_run(path, inputs))
        return 0
    except _UsageError as error:
        print(f"keras_gamma: {error} See --help.", file=sys.stderr)
        return USAGE
    except _Failure as error:
        print(f"keras_gamma: {error}", file=sys.stderr)
        return FAILURE


class _Failure(Exception):
    pass


def _parse(argv):
    _FLAGS.unparse_flags()
    try:
        rest = _FLAGS(argv)[1:]
    except flags.Error as error:
        raise _UsageError(f"{error}.") from None
    if _FLAGS.help:
        return None, None
    if len(rest) != 1:
        raise _UsageError(f"Give one saved model (.keras). Received {len(rest)}: {rest}.")
    given = [f for f in ("output", "weight_decay", "l2") if _FLAGS[f].value is not None]
    given += [f for f in ("guidelines", "overwrite") if _FLAGS[f].present]
    if not _APPLY.value and given:
        raise _UsageError(f"--{given[0]} is used with --apply.")
    if _APPLY.value:
        if not _OUTPUT.value or not _OUTPUT.value.endswith(".keras"):
            raise _UsageError("--apply needs --output=NAME.keras.")
        if (_WEIGHT_DECAY.value is None) == (_L2.value is None):
            raise _UsageError("--apply needs exactly one of --weight_decay and --l2.")
    return rest[0], _shape(_INPUT_SHAPE.value)


def _shape(words):
    if words is None:
        return None
    try:
        return tuple(None if w.strip().lower() in ("none", "?") else int(w) for w in words)
    except ValueError:
        raise _UsageError(f"--input_shape takes sizes and 'none'. Received {words}.") from None


def _help():
    _, _, listed = _FLAGS.get_help().partition(":\n")  # absl heads the list with a file's path.
    return f"{__doc__.strip()}\n\nFlags:\n{listed}"


def _run(path, inputs):
    _quiet.import_keras()
    import keras_gamma

    model = _load(path)
    try:
        if not _APPLY.value:
            report = keras_gamma.find_roles(model, inputs)
            return _roles_as_json(report) if _JSON.value else str(report)
        plan = keras_gamma.apply_guidelines(
            model,
            l2=_L2.value,
            weight_decay=_WEIGHT_DECAY.value,
            guidelines=_GUIDELINES.value,
            inputs=inputs,
            overwrite=_OVERWRITE.value,
        )
    except (TypeError, ValueError) as error:
        raise _Failure(" ".join(str(error).split())) from error
    _save(model, _OUTPUT.value)
    return plan.to_json() if _JSON.value else f"{plan}\nWritten to {_OUTPUT.value}"


def _load(path):
    import keras_gamma

    if not os.path.isfile(path):
        raise _Failure(f"No such file: {path}")
    if not zipfile.is_zipfile(path):
        raise _Failure(
            f"{path} is not a .keras archive, or is truncated. Save the model with "
            "model.save('NAME.keras')."
        )
    try:
        return keras_gamma.load_model(path)
    except Exception as error:
        text = " ".join(str(error).split())
        if "unsafe" in text.lower() or "safe_mode" in text:
            raise _Failure(
                f"{path} holds Python code (a Lambda layer), which only unsafe loading would open; "
                "it was not run. If you trust its origin, load it yourself and call "
                "keras_gamma.find_roles(model)."
            ) from error
        if "Could not locate" in text:
            raise _Failure(
                f"{path} needs a class that is not known here: {text[:200]}… Load it in Python "
                "with custom_objects and call keras_gamma.find_roles(model)."
            ) from error
        raise _Failure(
            f"{path} could not be loaded: {type(error).__name__}: {text[:200]}"
        ) from error


def _save(model, output):
    """Writes the model in one step, so that no half-written file bears its name."""
    import keras_gamma

    output = pathlib.Path(output)
    if output.exists() and not _OVERWRITE.value:
        raise _Failure(f"{output} exists already; pass --overwrite to replace it.")
    partial = output.with_name(f".{output.stem}.partial.keras")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model.save(partial)
        kept = len(keras_gamma.load_model(partial).losses)
        if kept < len(model.losses):
            raise _Failure(
                f"{type(model).__name__} does not save regularizers: {kept} of "
                f"{len(model.losses)} would be left in {output}, so it was not written. Keep the "
                "plan (GammaPlan.save), and after loading the model call plan.apply(model)."
            )
        os.replace(partial, output)
        for warning in caught:
            print(f"keras_gamma: {warning.message}", file=sys.stderr)
    except OSError as error:
        raise _Failure(f"{output} could not be written: {error}") from error
    finally:
        partial.unlink(missing_ok=True)


def _roles_as_json(report):
    return json.dumps(
        {
            "format": "keras_gamma.roles",
            "counts": {str(role): n for role, n in report.counts().items()},
            "gammas": [
                {"path": e.path, "kind": e.kind, "role": str(e.role), "reason": e.reason}
                for e in report
            ],
            "notes": [{"path": n.path, "kind": n.kind, "reason": n.reason} for n in report.notes],
        },
        indent=1,
        ensure_ascii=False,
    )


def run():
    """The console script."""
    sys.exit(main())


if __name__ == "__main__":
    run()
