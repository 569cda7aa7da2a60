"""`python -m keras_gamma MODEL.keras`: the residual roles of a saved model, as a table.

    python -m keras_gamma model.keras                      # the table of roles
    python -m keras_gamma model.keras --every_row          # with no blocks folded
    python -m keras_gamma model.keras --json               # the same for programs
    python -m keras_gamma model.keras --apply --weight_decay=1e-4 --output=regularized.keras
    python -m keras_gamma model.keras --plot=roles.html    # a picture; also .png, .svg, .pdf
    python -m keras_gamma model.keras --verify             # the roles, checked by running it
    python -m keras_gamma model.keras --audit              # what really shrinks
    python -m keras_gamma model.keras --golden=plan.json --update --weight_decay=1e-4
    python -m keras_gamma model.keras --golden=plan.json   # has anything changed since?

Exit codes: 0, all went well; 1, the model could not be read, analysed or written, the audit or
running the model found a disagreement, or the plan is not the golden one; 2, the command line was
wrong.
"""

import json
import os
import pathlib
import re
import sys
import warnings
import zipfile
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from absl import flags

from keras_gamma._backend import explain
from keras_gamma._keras import quiet

if TYPE_CHECKING:
    import keras

    from keras_gamma.decay.plan import GammaPlan
    from keras_gamma.report.base import Report

_FLAGS = flags.FlagValues()  # type: ignore[no-untyped-call, unused-ignore]
_JSON = flags.DEFINE_bool("json", False, "Print JSON.", flag_values=_FLAGS)
_EVERY_ROW = flags.DEFINE_bool(
    "every_row",
    False,
    "Print a row for every variable; by default repeated blocks are folded into one.",
    flag_values=_FLAGS,
)
_APPLY = flags.DEFINE_bool(
    "apply", False, "Set the regularizers and write the model to --output.", flag_values=_FLAGS
)
_VERIFY = flags.DEFINE_bool(
    "verify", False, "Check every role by running the model.", flag_values=_FLAGS
)
_PLOT = flags.DEFINE_string(
    "plot", None, "Draw the network to this .html, .png, .svg or .pdf.", flag_values=_FLAGS
)
_AUDIT = flags.DEFINE_bool(
    "audit", False, "Measure what really shrinks in the compiled model.", flag_values=_FLAGS
)
_GOLDEN = flags.DEFINE_string(
    "golden",
    None,
    "A stored plan to compare with (path, role, decision, strength), by its own guidelines.",
    flag_values=_FLAGS,
)
_UPDATE = flags.DEFINE_bool(
    "update", False, "With --golden: write the file instead.", flag_values=_FLAGS
)
_OUTPUT = flags.DEFINE_string(
    "output", None, "With --apply: the .keras file to write.", flag_values=_FLAGS
)
_WEIGHT_DECAY = flags.DEFINE_float(
    "weight_decay",
    None,
    "With --apply or --update: strength in torch's and timm's units (gradient weight_decay·γ).",
    flag_values=_FLAGS,
)
_L2 = flags.DEFINE_float(
    "l2",
    None,
    "With --apply or --update: strength in Keras' units (penalty l2·Σγ²).",
    flag_values=_FLAGS,
)
_GUIDELINES = flags.DEFINE_string(
    "guidelines",
    "paper",
    "With --apply, --update or --audit: paper, none, all, or role=factor pairs such as "
    "residual_last=1,interior=0.5.",
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


def main(argv: Sequence[str] | None = None) -> int:
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
        text, agrees = _run(path, inputs)
        print(text)
        return 0 if agrees else FAILURE
    except _UsageError as error:
        print(f"keras_gamma: {error} See --help.", file=sys.stderr)
        return USAGE
    except _Failure as error:
        print(f"keras_gamma: {error}", file=sys.stderr)
        return FAILURE


class _Failure(Exception):
    pass


def _parse(argv: Sequence[str]) -> tuple[str | None, tuple[int | None, ...] | None]:
    _FLAGS.unparse_flags()
    try:
        rest = _FLAGS(argv)[1:]
    except flags.Error as error:
        raise _UsageError(f"{error}.") from None
    if _FLAGS.help:
        return None, None
    if len(rest) != 1:
        raise _UsageError(f"Give one saved model (.keras). Received {len(rest)}: {rest}.")
    _check_flags()
    return rest[0], _shape(_INPUT_SHAPE.value)


def _check_flags() -> None:
    """Flags that do not go together are an error, never ignored."""
    modes = [flag for flag in ("apply", "verify", "audit", "golden", "plot") if _FLAGS[flag].value]
    if len(modes) > 1:
        raise _UsageError(f"--{modes[0]} and --{modes[1]} do not go together.")
    if _UPDATE.value and not _GOLDEN.value:
        raise _UsageError("--update is used with --golden.")
    if _EVERY_ROW.value and (_JSON.value or _PLOT.value or (_GOLDEN.value and not _UPDATE.value)):
        raise _UsageError("--every_row is used where a table is printed.")
    mode = "update" if _UPDATE.value else modes[0] if modes else "roles"
    allowed = {
        "apply": ("output", "weight_decay", "l2", "guidelines", "overwrite"),
        "update": ("weight_decay", "l2", "guidelines"),
        "audit": ("guidelines",),
    }
    for flag in ("output", "weight_decay", "l2", "guidelines", "overwrite"):
        if _FLAGS[flag].present and flag not in allowed.get(mode, ()):
            users = " or ".join(f"--{m}" for m, names in allowed.items() if flag in names)
            raise _UsageError(f"--{flag} is used with {users}.")
    if mode == "apply" and not (_OUTPUT.value or "").endswith(".keras"):
        raise _UsageError("--apply needs --output=NAME.keras.")
    if mode in ("apply", "update") and (_WEIGHT_DECAY.value is None) == (_L2.value is None):
        raise _UsageError(f"--{mode} needs exactly one of --weight_decay and --l2.")


def _shape(words: list[str] | None) -> tuple[int | None, ...] | None:
    if words is None:
        return None
    try:
        return tuple(None if w.strip().lower() in ("none", "?") else int(w) for w in words)
    except ValueError:
        raise _UsageError(f"--input_shape takes sizes and 'none'. Received {words}.") from None


def _help() -> str:
    _, _, listed = _FLAGS.get_help().partition(":\n")  # absl heads the list with a file's path.
    return f"{__doc__.strip()}\n\nFlags:\n{listed}"


def _run(path: str, inputs: Any) -> tuple[str, bool]:
    """What to print, and whether all is as it should be."""
    _check_file(path)  # Before a backend is loaded: that takes seconds.
    try:
        quiet.import_keras()
    except ModuleNotFoundError as error:
        if (missing := explain(error)) is None:
            raise
        raise _Failure(str(missing)) from error
    model = _load(path)
    try:
        if _VERIFY.value:
            return _verify(model, inputs)
        if _PLOT.value is not None:
            return _plot(model, inputs), True
        if _AUDIT.value:
            return _audit(model, inputs)
        if _GOLDEN.value:
            return (_update if _UPDATE.value else _compare)(model, inputs)
        if _APPLY.value:
            return _apply(model, inputs), True
        return _roles(model, inputs), True
    except (TypeError, ValueError) as error:
        raise _Failure(" ".join(str(error).split())) from error


def _shown(report: "Report[Any]") -> str:
    """A report as the flags want it."""
    if _JSON.value:
        return report.to_json()
    return report.table() if _EVERY_ROW.value else str(report)


def _roles(model: "keras.Model", inputs: Any) -> str:
    import keras_gamma

    return _shown(keras_gamma.find_roles(model, inputs))


def _plan(model: "keras.Model", inputs: Any, overwrite: bool) -> "GammaPlan":
    import keras_gamma

    return keras_gamma.apply_guidelines(
        model,
        l2=_L2.value,
        weight_decay=_WEIGHT_DECAY.value,
        guidelines=_GUIDELINES.value,
        inputs=inputs,
        overwrite=overwrite,
    )


def _apply(model: "keras.Model", inputs: Any) -> str:
    plan = _plan(model, inputs, _OVERWRITE.value)
    output = str(_OUTPUT.value)
    _save(model, output)
    return _shown(plan) if _JSON.value else f"{_shown(plan)}\nWritten to {output}"


def _verify(model: "keras.Model", inputs: Any) -> tuple[str, bool]:
    import keras_gamma

    found = keras_gamma.verify(model, inputs=inputs)
    return _shown(found), found.ok


def _plot(model: "keras.Model", inputs: Any) -> str:
    import keras_gamma

    file = str(_PLOT.value)
    try:
        path = keras_gamma.plot_roles(model, file, inputs=inputs)
    except OSError as error:
        raise _Failure(f"{file} could not be written: {error}") from error
    except ImportError as error:
        raise _Failure(str(error)) from error
    return json.dumps({"picture": str(path)}) if _JSON.value else f"Drawn to {path}"


def _audit(model: "keras.Model", inputs: Any) -> tuple[str, bool]:
    import keras_gamma

    guidelines = _GUIDELINES.value if _FLAGS["guidelines"].present else None
    found = keras_gamma.audit(model, guidelines=guidelines, inputs=inputs)
    return _shown(found), found.ok


def _update(model: "keras.Model", inputs: Any) -> tuple[str, bool]:
    plan = _plan(model, inputs, overwrite=True)  # On the copy in memory only.
    file = str(_GOLDEN.value)
    try:
        plan.save(file)
    except OSError as error:
        raise _Failure(f"{file} could not be written: {error}") from error
    return (_shown(plan) if _JSON.value else f"{_shown(plan)}\nWritten to {file}"), True


def _compare(model: "keras.Model", inputs: Any) -> tuple[str, bool]:
    import keras_gamma
    from keras_gamma.decay.deciding import decide

    file = str(_GOLDEN.value)
    try:
        golden = keras_gamma.GammaPlan.load(file)
    except OSError as error:
        raise _Failure(f"{error.strerror}: {file}. Make it with --update.") from error
    roles = keras_gamma.find_roles(model, inputs)
    plan = keras_gamma.GammaPlan(
        decide(roles, golden.guidelines, golden.l2), golden.guidelines, golden.l2
    )
    lines = plan.diff(golden)
    if _JSON.value:
        return json.dumps(
            {"agrees": not lines, "differences": lines}, ensure_ascii=False
        ), not lines
    if lines:
        head = f"{len(lines)} differences from {file} (stored -> now):"
        return "\n".join([head, *(f"- {line}" for line in lines)]), False
    return f"{len(plan)} entries, all as in {file}", True


def _check_file(path: str) -> None:
    if os.path.isdir(path):
        if os.path.isfile(os.path.join(path, "config.json")):  # model.save(path, zipped=False)
            return
        raise _Failure(f"{path} is a directory without a model. Give a .keras archive.")
    if not os.path.isfile(path):
        raise _Failure(f"No such file: {path}")
    if not zipfile.is_zipfile(path):
        raise _Failure(
            f"{path} is not a .keras archive, or is truncated. Save the model with "
            "model.save('NAME.keras')."
        )


def _load(path: str) -> "keras.Model":
    import keras_gamma

    try:
        return keras_gamma.load_model(path)
    except Exception as error:
        text = " ".join(str(error).split())
        whole = f"{text} {error.__cause__}"  # `load_model` shortens what Keras says.
        if "unsafe" in whole.lower() or "safe_mode" in whole:
            raise _Failure(
                f"{path} holds Python code (a Lambda layer), which only unsafe loading would open; "
                "it was not run. If you trust its origin, load it yourself and call "
                "keras_gamma.find_roles(model)."
            ) from error
        if "Could not locate" in whole:
            [needed] = re.findall("Could not locate [^.]*", whole)[:1]
            raise _Failure(
                f"{path} needs a class that is not known here: {needed}. Load it in Python "
                "with custom_objects and call keras_gamma.find_roles(model)."
            ) from error
        kind = f"{type(error).__name__}: "
        _, said, why = text.partition("could not be loaded: ")  # By `load_model`.
        raise _Failure(
            f"{path} could not be loaded: {why[:200] if said else kind + text[:200]}"
        ) from error


def _save(model: "keras.Model", file: str) -> None:
    """Writes the model in one step, so that no half-written file bears its name."""
    import keras_gamma

    output = pathlib.Path(file)
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


def run() -> None:
    """The console script."""
    sys.exit(main())
