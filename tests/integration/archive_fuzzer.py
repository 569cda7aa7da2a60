"""Mutates archives and plans, and reads them; says what happened, as JSON lines.

    python tests/integration/archive_fuzzer.py COUNT SEED FOLDER [--to FILE]

Each case must end soon, take little memory, leave the model as it was, and fail, if it fails, with
one line that says what is wrong. A case is made from the seed and its number alone, so that a run
which was stopped goes on where it was: `--to FILE` appends to FILE, and skips what is in it.
`--summary FILE` counts what is in it.
"""

import argparse
import collections
import faulthandler
import gc
import io
import json
import pathlib
import random
import resource
import signal
import sys
import time
import warnings
import zipfile

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))

import keras
import numpy as np
from keras import layers

import keras_gamma

SECONDS = 30  # Of the processor: others may have the machine.
WALL_SECONDS = 20 * SECONDS
ADDRESS_SPACE = 4 * 2**30  # On top of what is mapped before the first case.
ODD = [
    None, True, -1, 0, 1e308, -1e308, float("nan"), float("inf"), 10**40, "", "x", "\\x00",
    "γ" * 50, "../../etc/passwd", [], {}, [[]], [1, 2, 3], {"a": {"b": 1}}, "a" * 100_000, "1\\n2",
]  # fmt: skip


class Late(BaseException):
    """A case took too long."""


def make():
    """A model with a penalty that Keras saves, one that it does not, and an exclude list."""
    keras.utils.set_random_seed(0)
    x = keras.Input((4,), name="x")
    y = layers.Dense(4, name="a")(layers.LayerNormalization(name="ln")(x))
    y = layers.Add(name="j1")([x, y])
    z = layers.Dense(4, name="b")(layers.RMSNormalization(name="rms")(y))
    y = layers.BatchNormalization(name="last")(layers.Add(name="j2")([y, z]))
    return keras.Model(x, y, name="m")


def compiled():
    model = make()
    keras_gamma.apply_guidelines(model, l2=0.1)
    model.compile(keras.optimizers.AdamW(1e-3, weight_decay=0.05), "mse")
    keras_gamma.exclude_from_weight_decay(model.optimizer, model, guidelines="none")
    model.optimizer.build(model.trainable_variables)
    return model


def state(model):
    """Everything that reading might have changed."""
    decayed = [
        model.optimizer._use_weight_decay(v.value if tf_variables() else v)
        for v in model.trainable_variables
    ]
    penalties = [(v.path, repr(v.regularizer), v.trainable) for v in model.variables]
    config = json.dumps(type(model).get_config(model), sort_keys=True, default=str)
    return config, penalties, decayed, [np.array(w).tobytes() for w in model.get_weights()]


def tf_variables():
    return keras.backend.backend() == "tensorflow"


# Mutations ------------------------------------------------------------------------------------


def mutate_bytes(rng, content):
    """Flips, cuts, repeats, inserts or takes out bytes, once or a few times."""
    content = bytearray(content)
    for _ in range(rng.choice([1, 1, 2, 8])):
        at = rng.randrange(len(content) + 1)
        length = rng.choice([1, 1, 4, 64, 1024])
        kind = rng.randrange(5)
        if kind == 0 and at < len(content):
            content[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del content[at : at + length]
        elif kind == 2:
            content[at:at] = rng.randbytes(length)
        elif kind == 3:
            content[at:at] = content[at : at + length]
        elif at:
            del content[at:]
    return bytes(content)


def mutate_json(rng, text):
    """Changes the meaning: another value, a key less, a key more, an entry twice."""
    content = json.loads(text)
    places = []
    todo = [content]
    while todo:
        one = todo.pop()
        keys = list(one) if isinstance(one, dict) else range(len(one))
        for key in keys:
            places.append((one, key))
            if isinstance(one[key], (dict, list)):
                todo.append(one[key])
    for _ in range(rng.choice([1, 1, 1, 3])):
        if not places:
            break
        holder, key = rng.choice(places)
        kind = rng.randrange(5)
        try:
            if kind <= 1:
                holder[key] = rng.choice(ODD)
            elif kind == 2:
                del holder[key]
            elif kind == 3 and isinstance(holder, list):
                holder.append(holder[key])
            elif isinstance(holder, dict):
                holder[rng.choice(["", "x", "path", "format"])] = rng.choice(ODD)
        except (KeyError, IndexError):
            pass
    return json.dumps(content)


def mutate_text(rng, text):
    kind = rng.randrange(12)
    if kind == 0:
        depth = rng.choice([2_000, 100_000])
        return "[" * depth + "]" * depth
    if kind == 1:
        depth = 100_000
        return '{"format": ' + '{"a":' * depth + "1" + "}" * depth + "}"
    if kind <= 8:
        return mutate_json(rng, text)
    return mutate_bytes(rng, text.encode()).decode("utf-8", "replace")


def mutate_archive(rng, content):
    """A mutated archive: its bytes, or one of its members."""
    kind = rng.randrange(40)
    if kind < 12:
        return mutate_bytes(rng, content)
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old:
        names = old.namelist()
        ours = [name for name in names if name.endswith("keras_gamma.json")]
        victim = rng.choice([*ours * 3, *names])
        with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as new:
            for name in names:
                member = old.read(name)
                if name == victim and kind == 12:
                    continue
                if name == victim and kind == 13:  # Unpacks to much more than it has.
                    with new.open(name, "w", force_zip64=True) as stream:
                        for _ in range(600):
                            stream.write(bytes(2**20))
                    continue
                if name == victim and kind == 14:
                    name = rng.choice(["../" + name, "/" + name, name + "x", "a/b/" + name])
                elif name == victim and name.endswith(".json"):
                    member = mutate_text(rng, member.decode()).encode()
                elif name == victim:
                    member = mutate_bytes(rng, member)
                new.writestr(name, member)
                if name == victim and kind == 15:
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore")
                        new.writestr(name, member)
    if kind == 16:
        return mutate_bytes(rng, made.getvalue())
    return made.getvalue()


# Cases ----------------------------------------------------------------------------------------


def peak_kib():
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1])
    return 0


def resident_kib():
    return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * 4


def reset_peak():
    pathlib.Path("/proc/self/clear_refs").write_text("5")


def cases(seed, folder, numbers):
    """For each number a triple of it, a name, and a function that reads something mutated."""
    model = compiled()
    before = state(model)
    archive = folder / "good.keras"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save(archive)
    good = archive.read_bytes()
    coupled = keras_gamma.apply_guidelines(model, l2=0.1)
    texts = coupled.to_json(), keras_gamma.plan_weight_decay(model).to_json()
    target = folder / "mutated.keras"
    plan = folder / "mutated.json"

    def read_archive():
        keras_gamma.load_model(target)

    def read_coupled():
        found = keras_gamma.GammaPlan.load(plan)
        again = make()
        unchanged = json.dumps(again.get_config(), default=str)
        try:
            found.apply(again)
        except Exception:
            assert json.dumps(again.get_config(), default=str) == unchanged, "changed, and failed"
            assert not again.losses, "changed, and failed"
            raise

    def read_decoupled():
        found = keras_gamma.DecayPlan.from_json(plan.read_text("utf-8"))
        again = make()
        optimizer = keras.optimizers.AdamW(weight_decay=0.1)
        try:
            found.apply(optimizer, again)
        except Exception:
            spared = getattr(optimizer, "_exclude_from_weight_decay", None)
            assert not spared, "changed, and failed"
            raise

    for number in numbers:
        rng = random.Random(f"{seed}:{number}")
        kind = rng.randrange(4)
        if kind < 2:
            target.write_bytes(mutate_archive(rng, good))
            yield number, "archive", read_archive
        else:
            plan.write_text(mutate_text(rng, texts[kind - 2]), "utf-8", "replace")
            yield (
                number,
                ("coupled plan", "decoupled plan")[kind - 2],
                (read_coupled, read_decoupled)[kind - 2],
            )
        if number % 50 == 0:
            assert state(model) == before, "the model at hand was changed"


def run(name, read):
    """What came of one case: a dict."""
    gc.collect()
    reset_peak()
    base, started = resident_kib(), time.process_time()
    outcome = {"case": name, "result": "read", "error": None, "message": None}

    def late(*_):
        raise Late

    for alarm in (signal.SIGALRM, signal.SIGPROF):
        signal.signal(alarm, late)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    signal.alarm(WALL_SECONDS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            read()
    except Late:
        outcome["result"] = "hangs"
    except AssertionError as error:
        outcome.update(result="changed", message=str(error))
    except Exception as error:
        outcome.update(result="refused", error=type(error).__name__, message=str(error))
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)
    outcome["seconds"] = round(time.process_time() - started, 3)
    outcome["mib"] = round((peak_kib() - base) / 1024, 1)
    return outcome


def read_lines(file):
    """What a run has written so far."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def summary(outcomes):
    """The figures of a run, as lines."""
    results = collections.Counter((o["case"], o["result"]) for o in outcomes)
    yield f"{len(outcomes)} cases"
    for (case, result), count in sorted(results.items()):
        yield f"{case}: {result} {count}"
    yield f"longest: {max(o['seconds'] for o in outcomes)} s"
    yield f"most memory: {max(o['mib'] for o in outcomes)} MiB"
    yield f"errors of more than one line: {sum(map(is_odd, outcomes))}"


def is_odd(outcome):
    """Whether an error is not one line, of a type that callers expect, that says what is wrong."""
    return outcome["result"] == "refused" and (
        outcome["error"] not in ("ValueError", "TypeError", "OSError")
        or not 15 < len(outcome["message"]) < 2000
        or "\n" in outcome["message"]
    )


def limit():
    """Lets a case that asks for gigabytes fail, and a hang that no signal reaches end the run."""
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + ADDRESS_SPACE
    resource.setrlimit(resource.RLIMIT_AS, (most, resource.RLIM_INFINITY))


def main(count, seed, folder, file):
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    numbers, started = range(count), folder / "started"
    if file is not None:
        done = {o["number"] for o in read_lines(file)}
        if started.exists() and int(started.read_text()) not in done:  # It ended the run.
            number = int(started.read_text())
            hangs = {"number": number, "case": "unknown", "result": "hangs", "error": None,
                     "message": None, "seconds": 2 * WALL_SECONDS, "mib": 0}  # fmt: skip
            with file.open("a") as out:
                print(json.dumps(hangs), file=out)
            done.add(number)
        numbers = [number for number in numbers if number not in done]
    keras_gamma.load_model  # noqa: B018  (imported before anything is measured)
    out = sys.stdout if file is None else file.open("a")
    limited = False
    for number, name, read in cases(seed, folder, numbers):
        if not limited:
            gc.collect()
            gc.freeze()  # The libraries themselves: looked at in each collection otherwise.
            limit()
            limited = True
        started.write_text(str(number))
        faulthandler.dump_traceback_later(2 * WALL_SECONDS, exit=True)
        outcome = {"number": number, **run(name, read)}
        faulthandler.cancel_dump_traceback_later()
        print(json.dumps(outcome), file=out, flush=True)
        keras.backend.clear_session(free_memory=False)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("count", type=int, nargs="?")
    parser.add_argument("seed", type=int, nargs="?")
    parser.add_argument("folder", nargs="?")
    parser.add_argument("--to", type=pathlib.Path)
    parser.add_argument("--summary", type=pathlib.Path)
    args = parser.parse_args()
    if args.summary:
        print("\n".join(summary(read_lines(args.summary))))
    else:
        main(args.count, args.seed, args.folder, args.to)
