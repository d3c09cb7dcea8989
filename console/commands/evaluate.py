"""`alexnet evaluate`: the errors of trained networks on a validation set, and where they occur."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import click
from click.core import ParameterSource

from ...pipeline.dataset.images import Dataset
from ...pipeline.dataset.selection import EVERYTHING, Selection
from ...pipeline.errors import UserError
from ...train import probabilities
from ...train.classifier import Classifier, find_networks, load_classifier
from ...train.evaluate import ErrorCounts, ErrorRates, Evaluation, Network, Scored, evaluate, in_classes_of
from ...train.outcomes import ClassErrors, Outcomes
from ...train.parallel.mesh import Mesh
from ...train.parallel.ranks import join_ranks
from ...train.parallel.split import parallelize
from ...train.probabilities import ENDING, ProbabilityRecorder, SavedProbabilities, load_probabilities
from ...train.saved import read_selection
from ..command_options import EvaluateOptions
from ..data_options import DataOptions
from ..on_mesh import Ranks
from ..options import LoadingOptions, MeshOptions
from ..progress import bar


@dataclass(frozen=True)
class Report:
    """The errors of the average, of each network beside the path that was given for it, and of classes, worst first."""

    average: Evaluation
    num_networks: int
    networks: list[tuple[str, ErrorRates]]
    classes: list[ClassErrors] | None  # None: not asked for

    def record(self) -> dict[str, Any]:
        """As JSON can hold it."""
        networks = [{"checkpoint": path, **asdict(rates)} for path, rates in self.networks]
        classes = {} if self.classes is None else {"classes": [asdict(c) for c in self.classes]}
        return {
            **asdict(self.average),
            "checkpoints": [path for path, _ in self.networks],
            "networks": networks,
        } | classes


def split_data(paths: Sequence[Path]) -> tuple[list[Path], Path | None]:
    """Return the checkpoints, and the data set if the last path is a folder but not a run's."""
    last = paths[-1]
    if len(paths) > 1 and not last.is_file() and not (last / "checkpoints").is_dir() and last.suffix != ENDING:
        return list(paths[:-1]), last
    return list(paths), None


def run_evaluate(
    paths: Sequence[Path],
    data: Path | None,
    *,
    which: DataOptions,
    views: Literal[1, 10],
    batch_size: int,
    options: EvaluateOptions,
    mesh_options: MeshOptions,
    loading: LoadingOptions,
) -> Report | None:
    """Measure the errors; None on all ranks but the first. Saved probabilities alone need no data set."""
    info = join_ranks()
    checkpoints = [path for path in paths if path.suffix != ENDING]
    kept = [path for path in paths if path.suffix == ENDING]
    ranks = Ranks.plan(info, mesh_options, loading.device if checkpoints else "cpu")
    if options.save_probabilities:
        probabilities.require_place(options.save_probabilities)
    if not checkpoints and data is None and which.asked():
        raise click.UsageError("Saved probabilities are of certain images: leave out options that choose others.")
    files, opened = find_networks(checkpoints, info), None
    if checkpoints or data:
        with info.main_first("data"):
            remembered = _remembered(files, which) if files or not kept else probabilities.read_selection(kept[0])
            opened = which.open(data, "val", is_main=info.rank == 0, remembered=remembered)
    asked = click.get_current_context().get_parameter_source("views") == ParameterSource.COMMANDLINE
    saved = load_probabilities(kept, opened, views if checkpoints or asked else None)
    dataset = saved[0].dataset() if opened is None else opened
    with ranks.mesh() as mesh, mesh.watched(lambda: "the evaluation"):
        run = [load_classifier(path, mesh.device) for path in files]
        for classifier in run:
            parallelize(classifier.model, mesh)
        networks = _in_order(paths, run, saved)
        details = _Details(options, networks, in_classes_of(networks, dataset), mesh)
        with bar("evaluation", len(dataset), "images", silent=not mesh.is_main) as update:
            average = evaluate(
                networks,
                dataset,
                views=views if checkpoints else saved[0].views,
                batch_size=batch_size,
                mesh=mesh,
                settings=loading.settings(mesh.device, info.local_size),
                progress=update,
                observe=details.add,
            )
        report = details.report(paths, average)
        details.write(average, _sources(networks, files), saved[0].fingerprint if saved else dataset.fingerprint)
    return report if mesh.is_main else None


def _remembered(files: Sequence[Path], which: DataOptions) -> Selection:
    """Return what the networks were validated on, where they agree or nothing else is asked for."""
    found = {str(file): replace(read_selection(file), per_class=None) for file in files}
    if len(set(found.values())) < 2:
        return next(iter(found.values()), EVERYTHING)
    if which.asked():
        return EVERYTHING
    names = list(found)
    other = next(name for name in names if found[name] != found[names[0]])
    hint = "Say on which to compare them with --val-fraction or --classes-file, or evaluate each alone."
    raise UserError(f"{names[0]} and {other} were validated on different images of their data sets. {hint}")


def _in_order(paths: Sequence[Path], run: Sequence[Classifier], saved: Sequence[SavedProbabilities]) -> list[Network]:
    """One for each of the paths, as they were given."""
    kinds: dict[bool, Iterator[Network]] = {False: iter(run), True: iter(saved)}
    return [next(kinds[path.suffix == ENDING]) for path in paths]


def _sources(networks: Sequence[Network], files: Sequence[Path]) -> list[str]:
    """The checkpoints behind the networks, also those whose probabilities were saved."""
    rest = iter(files)
    behind = (n.checkpoints if isinstance(n, SavedProbabilities) else [str(next(rest))] for n in networks)
    return [*chain.from_iterable(behind)]


class _Details:
    """What is asked for beside the average's errors, collected while the images pass."""

    def __init__(self, options: EvaluateOptions, networks: Sequence[Network], dataset: Dataset, mesh: Mesh) -> None:
        self._options, self._dataset, self._mesh = options, dataset, mesh
        self._num_networks = sum(network.num_networks for network in networks)
        self._counts = [ErrorCounts(mesh.device) for _ in networks] if len(networks) > 1 else []
        by_class = options.per_class or options.confusion
        self._outcomes = Outcomes(dataset.labels, dataset.classes) if by_class else None
        size = len(dataset), dataset.num_classes
        self._recorder = ProbabilityRecorder(*size, mesh) if options.save_probabilities else None

    def add(self, scored: Scored) -> None:
        for counts, probability in zip(self._counts, scored.each, strict=False):  # of one network nothing is counted
            counts.add(probability, scored.labels)
        for keeper in (self._outcomes, self._recorder):
            if keeper is not None:
                keeper.add(scored.indices, scored.average)

    def report(self, paths: Sequence[Path], average: Evaluation) -> Report:
        """What all ranks found, each of which must call this, once."""
        rates = [counts.rates(average.num_images, self._mesh.dp) for counts in self._counts]
        alone = ErrorRates(average.top1_error, average.top5_error, average.loss)
        if self._outcomes:
            self._outcomes.combine(self._mesh)
        classes = self._outcomes.class_errors() if self._outcomes and self._options.per_class else None
        named = zip(map(str, paths), rates or [alone], strict=True)
        return Report(average, self._num_networks, list(named), classes)

    def write(self, average: Evaluation, checkpoints: Sequence[str], fingerprint: str) -> None:
        """The files that are asked for; every rank must call this, after `report`."""
        if self._outcomes and self._options.confusion and self._mesh.is_main:
            self._outcomes.write_confusion(self._options.confusion)
        if self._recorder and self._options.save_probabilities:
            metadata = {
                "dataset_fingerprint": fingerprint,
                "checkpoints": checkpoints,
                "views": average.views,
                "classes": self._dataset.classes,
                "bad": average.bad,
                "images": [self._dataset.name(i) for i in range(len(self._dataset))],
                "labels": self._dataset.labels.tolist(),
                "selection": self._dataset.selection.record(),
            }
            self._recorder.write(self._options.save_probabilities, metadata)
