"""Commands of ours as processes, a few at a time: for experiments that consist of many runs.

`commands/ablate.py` says what there is to do; `signals.py` stops it in an orderly way.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from ..pipeline.errors import UserError
from ..train.parallel.ranks import LAUNCHER
from .options import CORES
from .signals import stop_on_signals
from .terminal import say

SECONDS_BETWEEN_LOOKS = 0.1
Task = TypeVar("Task")


@dataclass(frozen=True)
class Job:
    """A command of ours; what it says goes to the end of `log`, what it prints to `output`, whole or not at all."""

    name: str
    arguments: list[str]
    log: Path
    output: Path | None = None


class Processes(Generic[Task]):
    """Runs jobs, `num` at a time. They end when this process does, however it ends."""

    def __init__(self, num: int) -> None:
        self._num = num
        self._running: list[tuple[subprocess.Popen[bytes], Task, Job]] = []
        self._stop_signal = 0

    def work_off(self, tasks: Iterable[Task], next_job: Callable[[Task], Job | None]) -> int:
        """Do the jobs of each task, one after the other, until `next_job` has none; return the exit code.

        A signal is passed on to the jobs, which stop in their own time; after that nothing new is started.
        A job that fails, unless its task has another one next, raises UserError, after the others have stopped.
        """
        waiting = deque(tasks)
        try:
            with stop_on_signals(self._stop):
                while waiting or self._running:
                    while waiting and len(self._running) < self._num and not self._stop_signal:
                        task = waiting.popleft()
                        if job := next_job(task):
                            self._running.append((process := start(job, self._num), task, job))
                            if self._stop_signal:  # it came before the process was among those running
                                process.send_signal(self._stop_signal)
                    if self._stop_signal and not self._running:
                        break
                    waiting.extendleft(reversed(self._look(next_job)))
        except KeyboardInterrupt:  # a second Ctrl-C
            self._end(signal.SIGKILL)
            raise
        finally:
            self._end(signal.SIGTERM)
        return 128 + self._stop_signal if self._stop_signal else 0

    def _look(self, next_job: Callable[[Task], Job | None]) -> list[Task]:
        """Wait a moment; return the tasks whose job has ended."""
        time.sleep(SECONDS_BETWEEN_LOOKS)
        ended = [each for each in self._running if each[0].poll() is not None]
        for each in ended:
            self._running.remove(each)
            process, task, job = each
            if process.returncode == 0 and job.output:
                _draft(job.output).replace(job.output)
            following = None if self._stop_signal else next_job(task)
            if following and following.arguments[0] == job.arguments[0]:  # the same again
                raise UserError(f"{job.name}: {_last_words(job, process.returncode)}")
        return [task for _, task, _ in ended]

    def _stop(self, number: int) -> None:
        self._stop_signal = number
        for process, *_ in self._running:
            process.send_signal(number)

    def _end(self, number: int) -> None:
        for process, *_ in self._running:
            process.send_signal(number)
        for process, *_ in self._running:
            process.wait()
        self._running.clear()


def start(job: Job, num: int) -> subprocess.Popen[bytes]:
    """Start one of `num` jobs, in a session of its own: a Ctrl-C reaches it only through `stop_on_signals`."""
    job.log.parent.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {LAUNCHER: str(os.getpid())}
    if num > 1:
        environment["OMP_NUM_THREADS"] = str(max(1, CORES // num))
    with job.log.open("ab") as log:
        log.write(f"$ alexnet {shlex.join(job.arguments)}\n".encode("utf-8", "backslashreplace"))
        log.flush()
        output = _draft(job.output).open("wb") if job.output else log
        say(f"{job.name}: {job.arguments[0]} (log: {job.log})")
        command = [sys.executable, "-m", "alexnet.cli", *job.arguments]
        with output:
            return subprocess.Popen(command, stdout=output, stderr=log, env=environment, start_new_session=True)


def _draft(path: Path) -> Path:
    return path.with_name(f".{path.name}.tmp")


def _last_words(job: Job, code: int) -> str:
    """Say how a job ended, by its log."""
    lines = job.log.read_text(errors="replace").splitlines()
    said = next((line.removeprefix("Error: ") for line in reversed(lines) if line.startswith("Error: ")), "")
    how = f"killed by signal {-code}" if code < 0 else said or f"exit code {code}"
    return f"{how.rstrip('.')}. The same command goes on from there (log: {job.log})."
