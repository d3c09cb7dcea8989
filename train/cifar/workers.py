"""Runs of an experiment, several at once, each in a process and a thread of its own.

`figure1.py` and `normalisation.py` ask for runs to be advanced. Runs meet only in their files, so neither the number of
processes nor the order in which they end changes a bit. A process that was started here ends with this one.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TypeVar

from ...pipeline.children import end_with_parent, no_ctrl_c
from ...pipeline.errors import UserError
from .images import Cifar, read_cifar
from .run import Outcome, Run, one_thread, read_outcome
from .settings import Settings

Report = Callable[[str, Outcome], None]
Key = TypeVar("Key")


@dataclass(frozen=True)
class Task:
    """Bring a run to the end of an epoch, or only to 25% training error; then test it."""

    path: Path  # its file, named after the run
    settings: Settings
    epochs: int
    until_target: bool = False
    test: bool = False

    def is_done(self, outcome: Outcome) -> bool:
        arrived = self.until_target and outcome.epochs_to_target() is not None
        trained = outcome.epochs >= self.epochs or arrived or outcome.diverged
        return trained and (bool(outcome.test_wrong) or not self.test)


class Workers:
    """Carries out tasks on the images of `folder`, `jobs` at a time; `report` gets each run's name and state."""

    def __init__(self, folder: Path, cifar: Cifar, jobs: int, report: Report) -> None:
        self.folder, self.cifar, self.jobs, self.report = folder, cifar, jobs, report

    def carry_out(self, tasks: Mapping[Key, Task]) -> dict[Key, Outcome]:
        """Return the state of each run at the end of its task, even if its file is further.

        So an experiment that is repeated after a kill decides as it did before.
        """
        pending = [task for task in tasks.values() if not task.is_done(self._outcome(task))]
        if min(self.jobs, len(pending)) <= 1:
            with one_thread():
                for task in pending:
                    perform(task, self.cifar, self.report)
        else:
            self._in_processes(pending)
        return {key: self._outcome(task).until(task.epochs) for key, task in tasks.items()}

    def _outcome(self, task: Task) -> Outcome:
        return read_outcome(task.path, task.settings, self.cifar)

    def _in_processes(self, tasks: list[Task]) -> None:
        running: dict[Connection, BaseProcess] = {}
        try:
            while tasks or running:
                while tasks and len(running) < self.jobs:
                    ours, process = _start(tasks.pop(0), self.folder)
                    running[ours] = process
                for ready in wait(list(running)):
                    assert isinstance(ready, Connection)
                    if not self._listen(ready):
                        _check_end(running.pop(ready))
        finally:
            for process in running.values():
                process.kill()  # whatever it has saved is whole
                process.join()

    def _listen(self, connection: Connection) -> bool:
        """Pass on what a process says; return False if it has ended."""
        try:
            said = connection.recv()
        except EOFError:
            return False
        if isinstance(said, Exception):
            raise said
        self.report(*said)
        return True


def perform(task: Task, cifar: Cifar, report: Report) -> None:
    """Carry out one task in this process and thread."""
    run = Run(task.path, task.settings, cifar)
    run.advance(task.epochs, until_target=task.until_target, report=lambda outcome: report(task.path.stem, outcome))
    if task.test:
        run.test()


def _start(task: Task, folder: Path) -> tuple[Connection, BaseProcess]:
    """Start a process for a task; return it, and where it says how far it is."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(task, folder, theirs), daemon=True)
    with no_ctrl_c():  # this process gets it, and ends the others
        process.start()
    theirs.close()
    return ours, process


def _work(task: Task, folder: Path, connection: Connection) -> None:
    end_with_parent()
    try:
        with one_thread():
            perform(task, read_cifar(folder), lambda name, outcome: connection.send((name, outcome)))
    except (UserError, OSError) as error:
        connection.send(error)


def _check_end(process: BaseProcess) -> None:
    process.join()
    if process.exitcode:
        how = f"was killed by signal {-process.exitcode}" if process.exitcode < 0 else f"ended with {process.exitcode}"
        raise UserError(f"A process that trained {how}; the same command goes on where it was.")
