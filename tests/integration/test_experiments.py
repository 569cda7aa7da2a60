"""The experiments: statistics, glyphs, interrupted runs, and the reports."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

pytest.importorskip("tensorflow_datasets")

from examples import ablation  # noqa: E402
from examples.core.cli import UsageError  # noqa: E402
from examples.data import glyphs  # noqa: E402
from examples.experiments import effective_lr_runs, experiment  # noqa: E402
from examples.experiments.reports import Report, tell  # noqa: E402
from examples.experiments.significance import (  # noqa: E402
    Claim,
    Estimate,
    estimate,
    holm,
    judge,
    paired,
)

pytestmark = pytest.mark.filterwarnings("default")


# Statistics -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_intervals_cover_the_truth_as_often_as_they_say():
    random = np.random.default_rng(0)
    covered = 0
    for _ in range(4000):
        found = estimate(random.normal(3.0, 2.0, size=5))
        covered += found.low <= 3.0 <= found.high
    assert 0.94 < covered / 4000 < 0.96


def test_pairing_takes_out_what_seeds_share():
    random = np.random.default_rng(1)
    seeds = random.normal(0, 10, 8)
    one, other = seeds + 1 + random.normal(0, 0.1, 8), seeds + random.normal(0, 0.1, 8)
    found = paired(one, other)
    assert found.low > 0.8 and found.high < 1.2 and found.p < 1e-4
    assert stats.ttest_ind(one, other).pvalue > 0.5


@pytest.mark.slow
def test_holm_holds_the_error_of_the_family():
    random = np.random.default_rng(2)
    wrong = 0
    for _ in range(1000):
        p = [stats.ttest_1samp(random.normal(size=6), 0).pvalue for _ in range(8)]
        wrong += min(holm(p)) < 0.05
    assert wrong < 70  # 50 are expected; without the correction, about 340.


def test_holm_of_a_few():
    assert holm([0.01, 0.02, 0.9]) == [0.03, 0.04, 0.9]
    assert holm([]) == []


def test_one_value_and_equal_values_claim_nothing():
    assert estimate([2.0]) == Estimate(2.0, -np.inf, np.inf, 1.0, 1)
    assert estimate([0.0, 0.0, 0.0]).p == 1.0
    assert "one value" in tell(estimate([2.0]))


def claim(sign, values, tolerance=0.0):
    return Claim("c", "p", sign, estimate(values), tolerance)


@pytest.mark.parametrize(
    ("one", "verdict"),
    [
        (claim(1, [1.0, 1.1, 0.9, 1.05]), "holds"),
        (claim(-1, [1.0, 1.1, 0.9, 1.05]), "the opposite is seen"),
        (claim(1, [1.0, -1.1, 0.9, -0.7]), "no difference seen"),
        (claim(1, [5.0]), "no difference seen"),
        (claim(0, [0.01, -0.01, 0.02], 0.1), "holds"),
        (claim(0, [0.1, -0.2, 0.02], 0.1), "cannot be told"),
        (claim(0, [1.1, 1.2, 1.15], 0.1), "refuted"),
        (claim(0, [0.0], 0.1), "cannot be told"),
    ],
)
def test_verdicts(one, verdict):
    assert [found for *_, found in judge([one])] == [verdict]


# Glyphs ---------------------------------------------------------------------------------------


def test_glyph_classes_are_different_shapes_that_every_font_has():
    characters = glyphs.classes()
    assert len(characters) == len(set(characters)) > 300
    assert {"A", "a", "ß", "Ω", "Ж"} <= set(characters)
    assert not {"\u0391", "\u0410"} & set(characters)  # Greek and Cyrillic A
    shapes = {glyphs._plain(c, "DejaVuSans").tobytes() for c in characters}
    assert len(shapes) == len(characters)
    assert not set(glyphs._TRAIN_FONTS) & set(glyphs._TEST_FONTS)


def test_glyphs_are_reproducible_distorted_and_to_be_told_apart():
    def draw(character, seed, font="DejaVuSans"):
        return glyphs.render(character, font, np.random.default_rng(seed)).astype(float)

    np.testing.assert_array_equal(draw("B", 1), draw("B", 1))
    assert draw("B", 1).shape == (16, 16, 1)
    same = np.mean([np.abs(draw("B", i) - draw("B", i + 100)).mean() for i in range(20)])
    assert same > 15  # Grey levels: two drawings of one letter differ.
    means = {c: np.mean([draw(c, i) for i in range(60)], axis=0) for c in "OIX"}
    for seed in range(200, 210):
        guess = [
            min(means, key=lambda m: np.abs(means[m] - draw(c, seed)).mean()) for c in ("O", "I")
        ]
        # Not all, but the mean picture alone gets most of them.
        assert guess.count("X") <= 1


# Jobs that are interrupted --------------------------------------------------------------------


def run(jobs, work, folder, settings=None, **kwargs):
    return experiment.run_jobs(
        jobs, work, folder, settings or {"a": 1}, processes=2, tell=str, threads=True, **kwargs
    )


def test_done_jobs_are_not_done_again(tmp_path):
    done = []

    def work(job):
        if job["n"] == 3 and len(done) < 5:
            raise RuntimeError("stopped")
        done.append(job["n"])
        return {"square": job["n"] ** 2}

    jobs = [{"n": n} for n in range(6)]
    with pytest.raises(RuntimeError, match="stopped"):
        run(jobs, work, tmp_path)
    first = list(done)
    done.extend([-1] * 5)
    # Its last line was cut off, as by a kill.
    path = tmp_path / "results.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    assert len(lines) == len(first) + 1
    path.write_text("".join(lines) + '{"n": 5, "squ')
    rows = run(jobs, work, tmp_path)
    assert [row["square"] for row in rows] == [0, 1, 4, 9, 16, 25]
    assert sorted(n for n in done if n >= 0) == sorted([*first, *(set(range(6)) - set(first))])


def test_results_of_other_settings_are_left_alone(tmp_path):
    run([{"n": 1}], lambda job: {"x": 1}, tmp_path, {"epochs": 3})
    before = (tmp_path / "results.jsonl").read_bytes()
    with pytest.raises(UsageError, match="epochs was 3 and is now 4"):
        run([{"n": 1}], lambda job: {"x": 1}, tmp_path, {"epochs": 4})
    assert (tmp_path / "results.jsonl").read_bytes() == before
    (tmp_path / "results.jsonl").write_text('{"epochs": 3}\nnonsense\n{}\n')
    with pytest.raises(UsageError, match="damaged in line 2"):
        run([], None, tmp_path, {"epochs": 3})


def test_the_report_escapes_and_embeds(tmp_path):
    report = Report("a < b")
    report.table(["x"], [["<script>"]])
    picture = tmp_path / "p.png"
    picture.write_bytes(b"\x89PNG")
    report.picture(picture, "cap & tion")
    report.write(tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "&lt;script&gt;" in page and "<script>" not in page
    assert "data:image/png;base64," in page and "cap &amp; tion" in page
    assert "![cap & tion](p.png)" in (tmp_path / "report.md").read_text()


# Ablation -------------------------------------------------------------------------------------


def test_arms():
    every = ablation.parse_arms(["every"])
    assert len(every) == 16 and every[0] == "none"
    assert every[-1] == "residual_last+shortcut+interior+trunk"
    assert ablation.parse_arms(["none", "paper", "none"]) == ["none", "paper"]
    paper = ablation.guidelines_of("paper")
    assert ablation.guidelines_of("residual_last+interior") == paper
    with pytest.raises(UsageError, match="'branch' is no role"):
        ablation.parse_arms(["none", "branch"])


def script(name, *flags, **kwargs):
    return subprocess.run(
        [sys.executable, str(ROOT / "examples" / f"{name}.py"), *flags],
        capture_output=True, text=True, timeout=600, **kwargs,
    )  # fmt: skip


TINY = [
    "--epochs=2",
    "--model=resnet8_v1",
    "--width=4",
    "--limit_examples=320",
    "--monitor_every=5",
    "--warmup_epochs=1",
]


@pytest.mark.slow
def test_a_killed_ablation_goes_on(tmp_path):
    flags = [*TINY, "--arms=none,paper", "--seeds=2", f"--output_dir={tmp_path / 'out'}"]
    command = [sys.executable, str(ROOT / "examples" / "ablation.py"), *flags]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
    results = tmp_path / "out" / "results.jsonl"
    for _ in range(600):
        if results.exists() and len(results.read_text().splitlines()) >= 2:
            break
        time.sleep(0.2)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    before = results.read_text().splitlines()
    done = script("ablation", *flags)
    assert done.returncode == 0, done.stderr
    lines = results.read_text().splitlines()
    assert lines[: len(before)] == before
    rows = [json.loads(line) for line in lines[1:]]
    assert sorted((row["arm"], row["seed"]) for row in rows) == [
        ("none", 0), ("none", 1), ("paper", 0), ("paper", 1),
    ]  # fmt: skip
    report = (tmp_path / "out" / "report.md").read_text()
    means = {
        arm: np.mean([100 * r["final_test_accuracy"] for r in rows if r["arm"] == arm])
        for arm in ("none", "paper")
    }
    for arm, mean in means.items():
        shown = re.search(rf"\| {arm} \| ([\d.]+) \(", report).group(1)
        assert float(shown) == pytest.approx(mean, rel=0.01)
    assert "paper > none" in report and "no difference seen" in report
    # The arms of one seed begin alike, and differ afterwards.
    first = {r["arm"]: r for r in rows if r["seed"] == 0}
    assert first["none"]["gamma_norm_interior"] > first["paper"]["gamma_norm_interior"]
    again = script("ablation", *flags)
    assert "4 of 4 runs were done before" in again.stdout
    wrong = script("ablation", *flags[:-1], "--warmup_epochs=2", f"--output_dir={tmp_path / 'b'}")
    assert wrong.returncode == 2
    assert wrong.stderr.splitlines()[-1].startswith("error: the run in ")
    assert "--warmup_epochs=2.0 must be less than --epochs=2" in wrong.stderr
    changed = script("ablation", *flags, "--batch_size=16")
    assert changed.returncode == 2 and "batch_size was 32 and is now 16" in changed.stderr
    refused = script("ablation", *flags, "--seed=3")
    assert refused.returncode == 2 and "--seed is set by the experiment" in refused.stderr


# Effective learning rate ----------------------------------------------------------------------


def test_only_the_direction_of_kernels_matters():
    change = effective_lr_runs.measure_invariance(seed=3)
    assert max(change["BN"], change["LN"], change["WN"]) < 1e-2
    assert change["none"] > 1.0


@pytest.mark.slow
def test_scaled_runs_are_the_same_run():
    """w ×2, η ×4, λ /4: every number is the same, to the last bit, but the norms."""
    import keras

    rows = []
    for arm in (effective_lr_runs.BASE, "η 0.4, λ 0.00125, w ×2"):
        keras.utils.set_random_seed(5)
        rows.append(effective_lr_runs.train(**effective_lr_runs.ARMS[arm], seed=5, epochs=2))
    base, scaled = rows
    assert scaled["loss"] == pytest.approx(base["loss"], rel=1e-5)
    np.testing.assert_allclose(scaled["norm"], 2 * np.array(base["norm"]), rtol=1e-4)
    np.testing.assert_allclose(scaled["angle"], base["angle"], rtol=1e-3)


@pytest.mark.slow
def test_the_whole_experiment_in_small(tmp_path):
    flags = ["--seeds=2", "--epochs=2", f"--output_dir={tmp_path}"]
    done = script("effective_lr", *flags)
    assert done.returncode == 0, done.stderr
    report = (tmp_path / "report.md").read_text()
    for arm in effective_lr_runs.ARMS:
        assert f"| {arm} |" in report
    assert (tmp_path / "curves.png").stat().st_size > 20_000
    rows = (tmp_path / "results.jsonl").read_text().splitlines()
    assert len(rows) == 1 + 2 * (1 + len(effective_lr_runs.ARMS))
    assert "30 of 30 runs were done before" in script("effective_lr", *flags).stdout


# The instability ------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_instability_is_made_to_happen_and_not_where_norms_are_held(tmp_path):
    done = script("instability", f"--output_dir={tmp_path / 'free'}", "--epochs=260")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("Periodic instability (arXiv:2106.15739) at step") == 1
    count = int(done.stdout.split()[0])
    assert count >= 1 and done.stdout.count("  step ") == count
    assert (tmp_path / "free" / "monitor.png").stat().st_size > 20_000
    held = script("instability", f"--output_dir={tmp_path / 'held'}", "--epochs=260", "--held")
    assert held.stdout.startswith("0 destabilizations")
