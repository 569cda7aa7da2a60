"""GammaMonitor: its numbers against those of a plain loop, its files, and what it warns of."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_gamma
from keras_gamma.dynamics import monitor_log
from keras_gamma.dynamics.instability import Detector
from keras_gamma.dynamics.monitor import GammaMonitor
from keras_gamma.dynamics.starving import LIMIT, Watch

SIZE = 48


def data(seed=0, classes=4):
    random = np.random.default_rng(seed)
    return random.standard_normal((SIZE, 6, 6, 3)).astype("float32"), random.integers(
        0, classes, SIZE
    )


def residual_net(l2=None):
    keras.utils.set_random_seed(1)
    penalty = None if l2 is None else keras.regularizers.L2(l2)
    x = keras.Input((6, 6, 3))
    y = layers.Conv2D(4, 3, padding="same", kernel_regularizer=penalty, name="stem")(x)
    y = layers.ReLU()(layers.BatchNormalization(name="stem_bn")(y))
    z = layers.Conv2D(
        4, 3, padding="same", use_bias=False, kernel_regularizer=penalty, name="conv"
    )(y)
    z = layers.BatchNormalization(name="last_bn")(z)
    y = layers.Add(name="join")([y, z])
    return keras.Model(x, layers.Dense(4, name="head")(layers.Flatten()(y)))


def compiled(model, optimizer, **kwargs):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, **kwargs)
    return model


class Snapshots(keras.callbacks.Callback):
    """Every weight before and after every step."""

    def __init__(self):
        super().__init__()
        self.weights, self.losses = [], []

    def on_train_batch_begin(self, batch, logs=None):
        if not self.weights:
            self._take()

    def on_train_batch_end(self, batch, logs=None):
        self._take()

    def _take(self):
        take = {v.path: np.array(keras.ops.convert_to_numpy(v), "float64", copy=True)
                for v in self.model.trainable_variables}  # fmt: skip
        self.weights.append(take)


def angle(a, b):
    return np.arccos(np.clip(a @ b / np.linalg.norm(a) / np.linalg.norm(b), -1, 1))


@pytest.mark.usefixtures("steps")
@pytest.mark.one_in(4)
@pytest.mark.parametrize(
    ("optimizer", "power"),
    [
        (lambda: keras.optimizers.SGD(0.05, momentum=0.9), 2),
        (lambda: keras.optimizers.AdamW(0.02, weight_decay=0.1), 1),
        (lambda: keras.optimizers.Lamb(0.02), 0),
        (lambda: keras_gamma.optimizers.AdamW(0.02, weight_decay=0.1), 1),
    ],
)
@pytest.mark.filterwarnings("ignore:.*equilibrium of Lamb")
def test_numbers_are_those_of_a_plain_loop(optimizer, power):
    model = compiled(residual_net(), optimizer())
    monitor, snapshots = GammaMonitor(every=3), Snapshots()
    x, y = data()
    model.fit(x, y, batch_size=8, epochs=2, verbose=0, callbacks=[monitor, snapshots])
    eta = float(keras.ops.convert_to_numpy(model.optimizer.learning_rate))
    assert [row["step"] for row in monitor.history] == [0, 3, 6, 9]
    for row in monitor.history:
        before, after = (snapshots.weights[row["step"] + i] for i in (0, 1))
        assert row["learning_rate"] == pytest.approx(eta)
        for path in ("stem/kernel", "conv/kernel"):  # One filter per column.
            old, new = (w[path].reshape(-1, 4) for w in (before, after))
            norms = np.linalg.norm(old, axis=0)
            turned = [angle(old[:, i], new[:, i]) for i in range(4)]
            numbers = row["kernels"][path]
            assert numbers["norm"] == pytest.approx(np.sqrt(np.mean(norms**2)), rel=1e-5)
            assert numbers["angle"] == pytest.approx(np.sqrt(np.mean(np.square(turned))), rel=1e-2)
            effective = np.median(eta / norms**power)
            assert numbers["effective_learning_rate"] == pytest.approx(effective, rel=1e-5)
        for path in ("stem_bn/gamma", "last_bn/gamma"):
            scale, numbers = after[path], row["gammas"][path]
            assert numbers["norm"] == pytest.approx(np.linalg.norm(scale), rel=1e-5)
            assert numbers["quantiles"][2] == pytest.approx(np.median(scale), rel=1e-5)
            assert numbers["quantiles"][4] == pytest.approx(scale.max(), rel=1e-5)
            effective = eta / np.linalg.norm(scale) ** power
            assert numbers["effective_learning_rate"] == pytest.approx(effective, rel=1e-5)
        assert set(row["kernels"]) == {"stem/kernel", "conv/kernel"}
        assert set(row["roles"]) == {"trunk", "residual_last"}


@pytest.mark.slow
@pytest.mark.usefixtures("steps")
def test_the_loss_is_that_since_the_last_measurement():
    x, y = data()

    def losses(every):
        model = compiled(residual_net(), keras.optimizers.SGD(0.1))
        monitor = GammaMonitor(every=every)
        model.fit(x, y, batch_size=8, epochs=2, shuffle=False, verbose=0, callbacks=[monitor])
        return [row["loss"] for row in monitor.history]

    each, third = losses(1), losses(3)
    # Measured after steps 0, 3, 6, 9; an epoch has 6 steps, and a new one begins afresh.
    expected = [each[0], np.mean(each[1:4]), each[6], np.mean(each[7:10])]
    assert third == pytest.approx(expected, rel=1e-3)


def test_the_branch_is_measured_beside_the_skip():
    """At a join of x and normalized x · 3, the branch has a variance of 9."""
    x = keras.Input((5, 5, 4))
    normalized = layers.BatchNormalization(
        center=False, gamma_initializer=keras.initializers.Constant(3.0), epsilon=1e-6
    )(x)
    y = layers.Add(name="join")([x, normalized])
    y = layers.Add(name="double")([y, y])
    model = keras.Model(x, layers.Dropout(0.9)(y))
    random = np.random.default_rng(0)
    batch = (2 * random.standard_normal((64, 5, 5, 4))).astype("float32")
    weights = [np.array(w) for w in model.get_weights()]
    found = keras_gamma.dynamics.branch_ratios(model, batch)
    assert [one.label for one in found] == ["join"]
    assert found[0].branch == pytest.approx(9, rel=1e-2)
    assert found[0].skip == pytest.approx(4, rel=5e-2)
    assert found[0].ratio == pytest.approx(found[0].branch / found[0].skip)
    for now, before in zip(model.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(now, before)  # The running statistics too.


@pytest.mark.usefixtures("steps")
def test_a_probe_adds_the_branches():
    x, y = data()
    model = compiled(residual_net(), keras.optimizers.SGD(0.1))
    monitor = GammaMonitor(every=2, probe=x[:8])
    model.fit(x, y, batch_size=8, verbose=0, callbacks=[monitor])
    expected = keras_gamma.dynamics.branch_ratios(model, x[:8])
    model.fit(x, y, batch_size=8, verbose=0, callbacks=[monitor])
    assert all(list(row["branches"]) == ["join"] for row in monitor.history)
    assert len({row["branches"]["join"]["ratio"] for row in monitor.history}) == 3
    assert monitor.history[0]["branches"]["join"]["ratio"] != expected[0].ratio


class Noise(keras.losses.Loss):
    """Random directions: gradients that never end."""

    def __init__(self):
        super().__init__()
        self.generator = keras.random.SeedGenerator(0)

    def call(self, y_true, y_pred):
        noise = keras.random.normal(keras.ops.shape(y_pred), seed=self.generator)
        return keras.ops.mean(noise * y_pred, axis=-1)


@pytest.mark.one_in(4)
@pytest.mark.parametrize("kind", ["coupled", "decoupled", "adamw", "both"])
def test_angles_and_norms_settle_where_predicted(kind):
    keras.utils.set_random_seed(2)
    x = keras.Input((32,))
    y = layers.Dense(64, use_bias=False, name="dense")(x)
    y = layers.BatchNormalization(center=False, scale=False)(y)
    model = keras.Model(x, layers.Dense(8, use_bias=False, trainable=False, name="head")(y))
    if kind in ("coupled", "both"):
        model.get_layer("dense").kernel.regularizer = keras.regularizers.L2(0.005)
    decay = {"coupled": None, "decoupled": 0.1, "both": 0.1, "adamw": 0.5}[kind]
    if kind == "adamw":
        optimizer = keras.optimizers.AdamW(0.01, weight_decay=decay)
        weight = 1.0
    else:
        optimizer = keras.optimizers.SGD(0.2, momentum=0.5, weight_decay=decay)
        weight = 8.0
    model.compile(optimizer, Noise(), loss_weights=weight)
    monitor = GammaMonitor(every=7)
    random = np.random.default_rng(0)
    inputs, targets = random.standard_normal((512, 32)), np.zeros((512, 8))
    model.fit(inputs, targets, batch_size=16, epochs=25, verbose=0, callbacks=[monitor])
    last = monitor.history[-1]["kernels"]["dense/kernel"]
    expected = {
        "coupled": np.sqrt(2 * 0.2 * 0.01 / 1.5),
        "decoupled": np.sqrt(2 * 0.2 * 0.1 * 0.5 / 1.5),
        "both": np.sqrt(2 * 0.2 * (0.01 + 0.05) / 1.5),
        "adamw": np.sqrt(2 * 0.01 * 0.5 * 0.1 / 1.9),
    }[kind]
    assert last["predicted_angle"] == pytest.approx(expected, rel=1e-3)
    assert last["rms_angle"] == pytest.approx(expected, rel=0.1)
    assert last["norm"] == pytest.approx(last["predicted_norm"], rel=0.1)


# Files ----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("steps")
def test_a_resumed_run_goes_on_with_its_file(tmp_path):
    x, y = data()
    path = tmp_path / "runs" / "monitor.jsonl"

    def fit(model, epochs, first=0):
        monitor = GammaMonitor(every=2, jsonl=path)
        model.fit(x, y, batch_size=8, epochs=epochs, initial_epoch=first, shuffle=False,
                  verbose=0, callbacks=[monitor])  # fmt: skip
        return monitor

    model = compiled(residual_net(), keras.optimizers.SGD(0.1))
    fit(model, 1)
    model.save(tmp_path / "model.keras")
    fit(model, 2, 1)
    whole = monitor_log.read(path)
    assert [row["step"] for row in whole[1]] == [0, 2, 4, 6, 8, 10]
    # Killed in the second epoch, in the middle of a line.
    with path.open("a") as file:
        file.write('{"step": 12, "ga')
    resumed = fit(keras.models.load_model(tmp_path / "model.keras"), 2, 1)
    header, rows = monitor_log.read(path)
    assert header == whole[0]
    assert [row["step"] for row in rows] == [0, 2, 4, 6, 8, 10]
    assert rows == resumed.history
    for row, once in zip(rows[3:], whole[1][3:], strict=True):
        assert row["gammas"] == once["gammas"]
    assert header["gammas"]["last_bn/gamma"] == {"role": "residual_last"}
    # A run from the beginning begins the file anew.
    fit(compiled(residual_net(), keras.optimizers.SGD(0.1)), 1)
    assert [row["step"] for row in monitor_log.read(path)[1]] == [0, 2, 4]


def test_foreign_and_damaged_files_are_refused(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"loss": 1}\n')
    with pytest.raises(ValueError, match="was not written by GammaMonitor"):
        monitor_log.read(path)
    path.write_text('{"format": "keras_gamma.monitor"}\nno\n{"step": 1}\n')
    with pytest.raises(ValueError, match="line 2, is no JSON"):
        monitor_log.read(path)
    path.write_text('{"form')
    assert monitor_log.read(path) == (None, [])


def test_tensorboard_gets_the_same_numbers(tmp_path):
    tf = pytest.importorskip("tensorflow")
    x, y = data()
    model = compiled(residual_net(), keras.optimizers.SGD(0.1))
    monitor = GammaMonitor(every=3, log_dir=tmp_path)
    model.fit(x, y, batch_size=8, verbose=0, callbacks=[monitor])
    found = {}
    for file in tmp_path.glob("events.out.tfevents.*"):
        for record in tf.data.TFRecordDataset(str(file)):
            event = tf.compat.v1.Event.FromString(record.numpy())
            for value in event.summary.value:
                found[value.tag, event.step] = float(tf.make_ndarray(value.tensor))
    row = monitor.history[1]
    assert found["gammas/last_bn/gamma/norm", 3] == pytest.approx(
        row["gammas"]["last_bn/gamma"]["norm"]
    )
    assert found["kernels/conv/kernel/angle", 3] == pytest.approx(
        row["kernels"]["conv/kernel"]["angle"]
    )
    assert found["loss", 0] == pytest.approx(monitor.history[0]["loss"])


@pytest.mark.one_in(2)
@pytest.mark.usefixtures("steps")
@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_the_picture(tmp_path, suffix):
    pytest.importorskip("matplotlib")
    x, y = data()
    model = compiled(residual_net(), keras.optimizers.SGD(0.1, weight_decay=0.01))
    path = tmp_path / f"monitor.{suffix}"
    model.fit(x, y, batch_size=8, verbose=0,
              callbacks=[GammaMonitor(every=2, probe=x[:4], picture=path)])  # fmt: skip
    content = path.read_bytes()
    if suffix == "svg":
        assert b"</svg>" in content
    else:
        pixels = __import__("matplotlib").image.imread(path)
        assert pixels.shape[0] > 400 and pixels.std() > 0.05


# What it says --------------------------------------------------------------------------------


@pytest.mark.parametrize("every", [0, -1, 1.5, "10", True, None])
def test_a_wrong_interval_is_refused(every):
    with pytest.raises(ValueError, match="`every` must be an integer ≥ 1"):
        GammaMonitor(every=every)


def test_a_wrong_picture_is_refused_before_training(tmp_path):
    pytest.importorskip("matplotlib")
    with pytest.raises(ValueError, match="pdf, png, svg"):
        GammaMonitor(picture=tmp_path / "monitor.jpeg2")


@pytest.mark.usefixtures("steps")
@pytest.mark.parametrize(
    ("optimizer", "says"),
    [
        (lambda: keras.optimizers.SGD(0.1, clipnorm=1.0), "gradients are clipped"),
        (lambda: keras.optimizers.Lion(0.1), "equilibrium of Lion"),
        (lambda: keras.optimizers.Ftrl(0.1), "effective learning rate of Ftrl is not known"),
        (lambda: keras.optimizers.Adam(0.1), "a penalty in the loss of Adam"),
        (lambda: keras.optimizers.SGD(0.1, gradient_accumulation_steps=2), "accumulated"),
    ],
)
def test_what_cannot_be_predicted_is_said(optimizer, says):
    x, y = data()
    model = compiled(residual_net(l2=0.01), optimizer())
    monitor = GammaMonitor(every=2)
    with pytest.warns(UserWarning, match=says):
        model.fit(x, y, batch_size=8, verbose=0, callbacks=[monitor])
    assert len(monitor.history) == 3
    assert all(
        "predicted_angle" not in k for row in monitor.history for k in row["kernels"].values()
    )
    assert any(says in note for note in monitor.header["notes"])


def test_no_equilibrium_where_the_norm_is_held():
    x, y = data()
    model = residual_net(l2=0.01)
    keras_gamma.dynamics.project_scale_invariant(model)
    compiled(model, keras.optimizers.SGD(0.1))
    monitor = GammaMonitor(every=2)
    model.fit(x, y, batch_size=8, verbose=0, callbacks=[monitor])
    kernel = monitor.history[-1]["kernels"]["conv/kernel"]
    assert kernel["norm"] == pytest.approx(1.0, abs=1e-4) and "predicted_angle" not in kernel
    assert monitor.header["kernels"]["conv/kernel"]["constrained"]


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="torch takes one step per call")
def test_several_steps_per_call():
    x, y = data()
    model = compiled(residual_net(), keras.optimizers.SGD(0.1), steps_per_execution=3)
    monitor = GammaMonitor(every=4)
    with pytest.warns(UserWarning, match="steps_per_execution"):
        model.fit(x, y, batch_size=4, epochs=2, verbose=0, callbacks=[monitor])
    # Calls begin at 0, 3, 6, 9, 12, ...: those within which a multiple of 4 lies.
    assert [row["step"] for row in monitor.history] == [0, 3, 6, 12, 15, 18]
    assert "angle" not in monitor.history[0]["kernels"]["conv/kernel"]


@pytest.mark.usefixtures("steps")
def test_it_changes_nothing():
    x, y = data()

    def trained(callbacks):
        model = compiled(residual_net(), keras.optimizers.AdamW(0.01, weight_decay=0.1))
        model.fit(x, y, batch_size=8, epochs=2, verbose=0, callbacks=callbacks)
        return model

    plain, watched = trained([]), trained([GammaMonitor(every=1, probe=x[:8])])
    for one, other in zip(plain.get_weights(), watched.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


# The periodic instability ---------------------------------------------------------------------


def unstable_net():
    keras.utils.set_random_seed(0)
    x = keras.Input((16,))
    y = x
    for i in range(3):
        y = layers.Dense(32, use_bias=False, name=f"dense{i}")(y)
        y = layers.BatchNormalization(center=False, scale=False)(y)
        y = layers.ReLU()(y)
    y = layers.Dense(4, use_bias=False, trainable=False)(y)
    model = keras.Model(x, layers.Rescaling(10.0)(y))
    # The same start on every backend.
    random = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, layers.Dense):
            shape = tuple(layer.kernel.shape)
            layer.kernel.assign(random.standard_normal(shape) / np.sqrt(shape[0]))
    return model


def instability_run(weight_decay, epochs=60):
    model = unstable_net()
    for layer in model.layers:
        if isinstance(layer, layers.Dense) and layer.trainable:
            layer.kernel.regularizer = keras.regularizers.L2(weight_decay / 2)
    compiled(model, keras.optimizers.SGD(0.2))
    random = np.random.default_rng(0)
    x = random.standard_normal((320, 16)).astype("float32")
    y = np.argmax(x @ random.standard_normal((16, 4)), axis=-1)
    monitor = GammaMonitor(every=10)
    model.fit(x, y, batch_size=32, epochs=epochs, shuffle=False, verbose=0, callbacks=[monitor])
    return monitor


@pytest.mark.slow
def test_the_periodic_instability_is_seen_and_said_once():
    with pytest.warns(UserWarning, match="Periodic instability") as warned:
        monitor = instability_run(0.02, epochs=200)
    event = monitor.events[0]
    said = [str(w.message) for w in warned if "Periodic instability" in str(w.message)]
    assert len(said) == 1
    assert event.layer in said[0] and f"step {event.step}" in said[0]
    # What it says is there, in the measurements.
    rows = {row["step"]: row for row in monitor.history}
    norms = {s: row["kernels"][event.layer]["norm"] for s, row in rows.items()}
    assert norms[event.step] == event.norm > 1.1 * event.trough
    assert event.trough in norms.values() and event.peak in norms.values()
    assert event.loss_spike >= 3 * event.loss_before


@pytest.mark.slow
def test_no_instability_without_decay(recwarn):
    monitor = instability_run(0.0, epochs=100)
    assert monitor.events == []


@pytest.mark.parametrize(
    ("norms", "losses"),
    [
        ([2, 1.8, 1.6, 1.4, 1.2, 1.0, 0.9, 0.8], [1, 0.9, 0.8, 0.7, 0.6, 9, 9, 9]),  # no jump
        (
            [2, 1.8, 1.6, 1.4, 1.2, 1.0, 1.5, 2.0],
            [1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.5, 0.5],
        ),  # no spike
        ([1, 1, 1, 1, 1, 1.5, 2, 3], [1, 0.9, 0.8, 0.7, 0.6, 9, 9, 9]),  # had not shrunk
    ],
)
def test_all_three_signs_are_needed(norms, losses):
    detector = Detector()
    rows = zip(losses, norms, strict=True)
    found = [detector.update(i, loss, {"w": float(n)}) for i, (loss, n) in enumerate(rows)]
    assert found == [None] * len(norms)


# Starving branches ---------------------------------------------------------------------------


def starving_run(l2, start=1.0):
    """A branch whose γ alone decays, at a learning rate of 0.1: γ halves in a few steps."""
    model = residual_net()
    last = model.get_layer("last_bn")
    last.gamma.assign(keras.ops.full(last.gamma.shape, start))
    last.gamma.regularizer = keras.regularizers.L2(l2)
    compiled(model, keras.optimizers.SGD(0.1))
    monitor = GammaMonitor(every=2, probe=data()[0][:16])
    model.fit(*data(), batch_size=8, epochs=4, callbacks=[monitor], verbose=0)
    return monitor


@pytest.mark.usefixtures("steps")
def test_starving_branches_are_seen_and_said_once():
    with pytest.warns(UserWarning, match="Branches starve") as warned:
        monitor = starving_run(1.5)
    said = [str(w.message) for w in warned if "starve" in str(w.message)]
    assert len(said) == 1
    totals = {row["step"]: row["branches"]["join"]["ratio"] for row in monitor.history}
    below = [step for step, total in totals.items() if total < LIMIT]
    assert monitor.starved.step == below[1] and monitor.starved.weakest == "join"
    assert f"step {below[1]}" in said[0] and len(below) > 2
    assert monitor.starved.total == pytest.approx(totals[below[1]])


@pytest.mark.slow
@pytest.mark.usefixtures("steps")
def test_fed_branches_and_those_that_begin_at_zero_are_not_starving():
    assert starving_run(0.0).starved is None
    assert starving_run(1.5, start=0.0).starved is None


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([[1.0, 1.0], [0.1, 0.1], [0.1, 0.1]], (2, 0.2)),
        ([[1.0, 1.0], [0.1, 0.1], [1.0, 1.0], [0.1, 0.1]], None),  # not in a row
        ([[0.0, 1.0], [0.1, 0.1], [0.1, 0.1]], None),  # never were fed
        ([[1.0, 4.0], [0.01, 1.0], [0.0, 9.0]], (2, 0.0)),  # one is dead
        ([[1.0, 1.0], [0.1, float("nan")], [0.1, float("inf")]], None),
        ([[], [], []], None),
    ],
)
def test_the_watch(rows, expected):
    watch = Watch(limit=0.5)
    found = [
        watch.update(step, {f"join{n}": ratio for n, ratio in enumerate(ratios)})
        for step, ratios in enumerate(rows)
    ]
    seen = [(one.step, pytest.approx(one.total)) for one in found if one]
    assert seen == ([] if expected is None else [expected])
