"""What the experiments share: jobs in several processes, results that survive being killed.

An experiment is a list of jobs, each a dictionary of plain values. Every result is a line of
`results.jsonl`, written as soon as it is there; a job whose line is there is not done again.
"""

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent import futures
from pathlib import Path
from typing import Any

from examples.core.cli import UsageError
from examples.core.files import claimed, write_atomic
from examples.core.settings import differences
from keras_gamma.dynamics import monitor_log

Job = dict[str, Any]
Row = dict[str, Any]


class Results:
    """The file of an experiment's results: a line of settings, and one for each job.

    Args:
        path: of the file.
        settings: what decides about the results, beside the jobs.

    Raises:
        UsageError: there are results of other settings, or the file is damaged.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]):
        self._path = path
        self.settings = json.loads(json.dumps(dict(settings)))
        self.rows: list[Row] = []
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lines = monitor_log.read_lines(path)
        except monitor_log.DamagedLineError as error:
            raise UsageError(f"{path} is damaged in line {error.number}: {error.cause}") from error
        if lines and lines[0] != self.settings:
            different = differences(lines[0], self.settings)
            changes = ", ".join(f"{n} was {was!r} and is now {now!r}" for n, was, now in different)
            raise UsageError(
                f"{path} holds results of other settings: {changes}. Repeat them to go on, or give "
                "another --output_dir"
            )
        self.rows = lines[1:]
        self._write()

    def get(self, job: Job) -> Row | None:
        """Returns the row of a job, or `None`."""
        return next((row for row in self.rows if job.items() <= row.items()), None)

    def add(self, row: Row) -> None:
        """Adds a row."""
        self.rows.append(json.loads(json.dumps(row)))
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")

    def _write(self) -> None:
        lines = [self.settings, *self.rows]
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        write_atomic(self._path, text.encode())


def run_jobs(
    jobs: Sequence[Job],
    work: Callable[[Job], Row],
    directory: Path,
    settings: Mapping[str, Any],
    *,
    processes: int,
    tell: Callable[[Row], str],
    threads: bool = False,
) -> list[Row]:
    """Does the jobs that are not done yet; returns the rows of all, in the order of the jobs.

    Args:
        jobs: what to do.
        work: does a job, and returns what to add to it. Must be importable, unless `threads`.
        directory: of the experiment; one process at a time may work in it.
        settings: see `Results`.
        processes: how many jobs to do at a time.
        tell: what to print of a row.
        threads: whether `work` starts a process by itself, so that threads will do.
    """
    with claimed(directory, "at work"):
        results = Results(directory / "results.jsonl", settings)
        left = [job for job in jobs if results.get(job) is None]
        if len(left) < len(jobs):
            print(f"{len(jobs) - len(left)} of {len(jobs)} runs were done before.")

        def keep(row: Row) -> None:
            results.add(row)
            print(f"[{len(results.rows)}/{len(jobs)}] {tell(row)}", flush=True)

        with _pool(threads, processes) as pool:
            _carry_out({pool.submit(work, job): job for job in left}, keep)
        rows = [results.get(job) for job in jobs]
        return [row for row in rows if row is not None]


def _carry_out(waiting: Mapping["futures.Future[Row]", Job], keep: Callable[[Row], None]) -> None:
    """Keeps results as they come. After a failure no more are begun; those that run are kept."""
    failure: BaseException | None = None
    try:
        for future in futures.as_completed(waiting):
            if future.cancelled():
                continue
            if future.exception() is None:
                keep(waiting[future] | future.result())
            elif failure is None:
                failure = future.exception()
                _cancel(waiting)
    except BaseException:
        _cancel(waiting)
        raise
    if failure is not None:
        raise failure


def _cancel(waiting: Iterable["futures.Future[Row]"]) -> None:
    for future in waiting:
        future.cancel()


def _pool(threads: bool, processes: int) -> futures.Executor:
    if threads:
        return futures.ThreadPoolExecutor(processes)
    import multiprocessing

    # Not fork: TensorFlow has threads by then. Each process computes on its share of the cores.
    os.environ.update(share_of_cores(processes))
    context = multiprocessing.get_context("spawn")
    return futures.ProcessPoolExecutor(processes, mp_context=context)


def share_of_cores(processes: int) -> dict[str, str]:
    """Environment for one of several processes, so that they do not compete for the cores."""
    threads = str(max(1, (os.cpu_count() or 1) // processes))
    names = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS")
    return dict.fromkeys(names, threads)
