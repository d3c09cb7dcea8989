"""`alexnet ablate`: train every variation, as `alexnet train` does, and put the results beside the paper's.

Each run is a process of its own, `alexnet train` and then `alexnet evaluate`. What is on disk says which comes next, so
the same command goes on after any end.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, get_args

import click
import numpy as np

from ... import __version__
from ...pca.stats import RgbStats
from ...pipeline.dataset.classes import in_training_classes
from ...pipeline.dataset.images import Dataset, Split
from ...pipeline.errors import UserError
from ...pipeline.files import only_writer, write_atomically
from ...pipeline.loader import require_batch
from ...train.ablation.experiment import Experiment, Run
from ...train.ablation.markdown import Provenance, page
from ...train.ablation.results import conclude, divergence, is_trained, read_result
from ...train.ablation.table import Table, build_table
from ...train.ablation.variations import BASE, VARIATIONS, choose, why_not
from ...train.checkpoint import saved_checkpoints
from ...train.config import Config
from ...train.figures.ablation import draw_ablation
from ...train.figures.drawing import save_figure
from ...train.memory import check_memory
from ...train.parallel.ranks import join_ranks
from ...train.parallel.split import check_split
from ...train.report.facts import departures
from ...train.settings.setting import as_text
from ...train.starts import read_starts
from ...train.treatment import needs_stats, stats_for_training
from ..data_options import DataOptions
from ..errors import ARGUMENTS
from ..experiment_options import AblateOptions
from ..on_mesh import Ranks, without_rescan
from ..options import LoadingOptions, MeshOptions, words_of
from ..processes import Job, Processes
from ..terminal import say
from ..train_options import ELSEWHERE
from .stats import compute_statistics

EVALUATION, LOG = "evaluation.json", "log.txt"  # in a run's folder, beside what `train` writes there


@dataclass(frozen=True, kw_only=True)
class Ablation:
    """An experiment with all that its runs need."""

    experiment: Experiment
    train_set: Dataset
    val_set: Dataset
    guess_error: float  # top-1, of the best guess that sees no image
    command: str
    execution: str | None
    which: DataOptions
    mesh_options: MeshOptions
    loading: LoadingOptions

    # -- what comes next -----------------------------------------------------------------------------------

    def next_job(self, run: Run) -> Job | None:
        """Return what a run has yet to do; None once its result is written."""
        if read_result(run):
            return None
        if not divergence(run.folder):
            if not is_trained(run.folder, run.config, len(self.train_set)):
                return Job(str(run), self._training(run), run.folder / LOG)
            if run.config.views > 1 and not (run.folder / EVALUATION).exists():
                return Job(str(run), self._evaluation(run), run.folder / LOG, run.folder / EVALUATION)
        evaluated = run.folder / EVALUATION
        result = conclude(run, json.loads(evaluated.read_text()) if evaluated.exists() else None)
        say(f"{run}: {_ending(result.errors, result.diverged)}")
        self.write_table()
        return None

    def _training(self, run: Run) -> list[str]:
        """A run is told what departs from its preset, so that its command can be read and repeated."""
        config = {each.setting: each.value for each in departures(run.config)}
        resume = ["--resume"] if saved_checkpoints(run.folder) else []
        stats = {"stats": self.stats_file if needs_stats(run.config) else None}
        words = words_of({"preset": run.config.preset, **config, **stats, "execution": self.execution, "keep": 1})
        return ["train", self._data, *self.which.words(), "--run", str(run.folder), *resume, *words, *self._how()]

    def _evaluation(self, run: Run) -> list[str]:
        return ["evaluate", str(run.folder), self._data, "--views", str(run.config.views), "--json", *self._how()]

    def statistics(self, config: Config) -> list[str]:
        """The command that computes the statistics for such a run."""
        pixels = words_of({"decode": config.decode, "max_pixels": config.max_pixels})
        return ["pca-stats", self._data, *self.which.words(), "--out", str(self.stats_file), *pixels, *self._loading()]

    def _how(self) -> list[str]:
        return [*self._loading(), *words_of(asdict(self.mesh_options))]

    def _loading(self) -> list[str]:
        return words_of({name: value for name, value in asdict(self.loading).items() if name not in ELSEWHERE})

    @property
    def _data(self) -> str:
        return self.train_set.where

    @property
    def stats_file(self) -> Path:
        return self.experiment.folder / "stats.json"

    # -- the results ---------------------------------------------------------------------------------------

    def table(self) -> Table:
        results = {run: read_result(run) for run in self.experiment.runs()}
        return build_table(self.experiment, results, self.guess_error)

    def write_table(self) -> Table:
        """Write the page and its numbers; return the table."""
        table, source, folder = self.table(), self._provenance(), self.experiment.folder
        record = table.record() | {"provenance": asdict(source), "base": asdict(self.experiment.base)}
        write_atomically(folder / "ablation.json", (json.dumps(record, indent=2) + "\n").encode())
        write_atomically(folder / "ablation.md", page(table, source).encode("utf-8", "backslashreplace"))
        return table

    def write_figure(self) -> None:
        source = self._provenance()
        figure = draw_ablation(self.table(), f"{source.base}; seeds {source.seeds}")
        save_figure(figure, self.experiment.folder / "ablation.png")

    def _provenance(self) -> Provenance:
        base, seeds = self.experiment.base, self.experiment.seeds
        departs = ", ".join(f"{d.setting} {as_text(d.value)}" for d in departures(base) if d.setting != "seed")
        starts = [start for run in self.experiment.runs() for start in read_starts(run.folder)]
        machines = {f"{s.machine['processor']}, {s.machine['cores']} cores, {s.device}, mesh {s.mesh}" for s in starts}
        sizes = f"{len(self.train_set):,} training and {len(self.val_set):,} validation images"
        return Provenance(
            command=self.command,
            base=f"preset {base.preset}" + (f" with {departs}" if departs else ""),
            data=f"{self._data}: {sizes}, {self.train_set.num_classes} classes",
            seeds=", ".join(map(str, seeds)),
            machine=f"{'; '.join(sorted(machines)) or 'none yet'}; alexnet {__version__}",
        )


def run_ablate(
    data: Path | None,
    *,
    which: DataOptions,
    preset: str | None,
    overrides: dict[str, Any],
    options: AblateOptions,
    mesh_options: MeshOptions,
    loading: LoadingOptions,
) -> tuple[Table, int]:
    """Carry the experiment out, or go on with it; return its table and the exit code."""
    if join_ranks().size > 1:
        raise UserError("`alexnet ablate` starts its own processes: run it once, without a launcher, with --mesh.")
    base = Config.from_preset(preset or "paper", **overrides)
    changes = choose(base, options.only, {_name_of(name, value): {name: value} for name, value in options.vary})
    train_set, val_set = (which.open(data, split) for split in get_args(Split))
    ablation = _plan(base, changes, train_set, val_set, options, which, mesh_options, loading)
    asked = [BASE, *changes]
    _check(ablation, asked, options.jobs)
    if not options.only:
        _say_what_is_left_out(base)
    busy = f"Another `alexnet ablate` is writing into {options.out}. Choose another --out."
    with only_writer(options.out, UserError(busy)):
        ablation.experiment.save()
        _prepare_statistics(ablation)
        runs = [run for run in ablation.experiment.runs() if run.variation in asked]
        try:
            code = Processes[Run](options.jobs).work_off(runs, ablation.next_job)
        finally:
            table = ablation.write_table()
            ablation.write_figure()
    if code:
        say(f"{table.num_over} of {table.num_runs} runs are over; the same command goes on where this one stopped.")
    return table, code


def _plan(
    base: Config,
    changes: Mapping[str, Mapping[str, Any]],
    train_set: Dataset,
    val_set: Dataset,
    options: AblateOptions,
    which: DataOptions,
    mesh_options: MeshOptions,
    loading: LoadingOptions,
) -> Ablation:
    """Return what is to be done, with what the folder holds of it already; nothing is written."""
    prints = {"train": train_set.fingerprint, "val": val_set.fingerprint}
    val_set = in_training_classes(val_set, train_set.classes)
    return Ablation(
        experiment=Experiment.plan(options.out, base, prints, changes, options.seeds),
        train_set=train_set,
        val_set=val_set,
        guess_error=1 - np.bincount(val_set.labels).max() / len(val_set),
        command=shlex.join(["alexnet", *without_rescan(click.get_current_context().meta[ARGUMENTS])]),
        execution=options.execution,
        which=which,
        mesh_options=mesh_options,
        loading=replace(loading, threads=max(1, loading.threads // options.jobs)),
    )


def _name_of(field: str, value: Any) -> str:
    """The name of a variation that is none of the paper's, as one would type it."""
    return f"{field}={'on' if value is True else 'off' if value is False else as_text(value, ',')}"


def _check(ablation: Ablation, names: Iterable[str], jobs: int) -> None:
    """Raise UserError if one of these variations cannot be trained here; nothing has been started yet."""
    num_classes = ablation.train_set.num_classes
    for name in names:
        config = ablation.experiment.config(name)
        try:
            require_batch(ablation.train_set, config.batch_size)
            ranks = Ranks.plan(join_ranks(), ablation.mesh_options, ablation.loading.device, config.separable)
            check_split(config, num_classes, ranks.dims)
            if ranks.device.type == "cpu":  # on GPUs the runs check it
                check_memory(config, num_classes, ranks.device, ranks.dims, jobs * ranks.num_on_device)
        except UserError as error:
            raise UserError(f"{name}: {error}") from error


def _say_what_is_left_out(base: Config) -> None:
    for name, variation in VARIATIONS.items():
        if problem := why_not(base, variation):
            say(f"Note: {name} is left out, because {problem}.")


def _prepare_statistics(ablation: Ablation) -> None:
    """Compute the training set's statistics once, for all runs, unless they are there already."""
    experiment, path = ablation.experiment, ablation.stats_file
    needing = [config for config in map(experiment.config, experiment.changes) if needs_stats(config)]
    if not needing:
        return

    def compute() -> RgbStats | None:
        if ablation.loading.chosen_device().type != "cpu":  # what this process allocates there, it keeps from the runs
            command = [sys.executable, "-m", "alexnet.cli", *ablation.statistics(needing[0])]
            if subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode:
                raise UserError(f"The statistics could not be computed: {shlex.join(['alexnet', *command[3:]])}")
            return RgbStats.load(path)
        settings = needing[0].pin_decoding(ablation.loading.settings())
        return compute_statistics(ablation.train_set, "centre", settings, join_ranks())

    stats = stats_for_training(needing[0], ablation.train_set, path if path.exists() else None, compute)
    if stats is not None and not path.exists():
        stats.save(path)


def _ending(errors: Mapping[str, Sequence[float]], diverged: str) -> str:
    if diverged:
        return f"diverged. {diverged}"
    views, (top1, top5) = list(errors.items())[-1]
    return f"top-1 error {top1:.2%}, top-5 error {top5:.2%} ({views} view{'s' * (views != '1')})"
