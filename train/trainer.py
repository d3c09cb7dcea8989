"""The training loop: batches in, a trained network and its history out.

`step.py` comes before it, `evaluate.py` after it. `fit` is the outline: step, log, and at the end of an epoch validate,
adapt the rates and write a checkpoint. Everything random about a step follows from (data seed, epoch, step), so a
resumed run ends with the same bits as one that was never interrupted (on the same machine, mesh and number of threads).
Every rank of a mesh runs this loop; the first one writes.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from ..pca.stats import RgbStats
from ..pipeline.dataset.classes import in_training_classes
from ..pipeline.dataset.images import Dataset
from ..pipeline.dataset.labels import class_words
from ..pipeline.decode.bad_images import add_bad
from ..pipeline.decode.resident import Resident
from ..pipeline.decode.settings import Settings
from ..pipeline.errors import TrainingError
from . import checkpoint as checkpoints
from .checkpoint import Checkpoint
from .classifier import Classifier
from .config import Config
from .evaluate import evaluate
from .gradient import chosen_execution
from .health import DIVERGED, LiveUnits, Watch
from .history import History, Record
from .meter import Meter
from .optimizer import Rates
from .parallel.mesh import Agreement, Mesh
from .parallel.split import check_split
from .parallel.tower_loader import build_loader
from .pretrained import Pretrained
from .starts import Start
from .step import TrainStep
from .tensorboard import TensorBoard
from .treatment import build_treatment

log = logging.getLogger("alexnet")

SECONDS_BETWEEN_CHECKPOINTS = 600, 60  # at any step, at the end of an epoch


class Interrupted(Exception):
    """A signal stopped the run, after its checkpoint was written."""

    def __init__(self, signal_number: int, path: Path) -> None:
        super().__init__(f"Stopped by signal {signal_number}; continue with --resume (checkpoint {path}).")
        self.signal_number = signal_number


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How to carry out a run. All of it may change when the run is resumed.

    Another device, mesh or `execution` reorders sums and so changes last bits; nothing else here changes results.
    `decode` and `max_pixels` would, so the configuration overrides those of `settings`.
    """

    run_dir: Path
    settings: Settings = field(default_factory=Settings)
    mesh: Mesh = field(default_factory=Mesh)
    execution: str | None = None  # on GPUs: one of gradient.EXECUTIONS; None: the default
    log_every: int = 20  # steps
    checkpoint_every: int | None = None  # steps; None: at the end of epochs, at least every ten minutes
    keep: int = 2  # checkpoints
    eval_batch: int = 128
    tensorboard: bool = False  # write the metrics for it too
    resident: Resident | None = None  # training images that are on this rank's device already


class Trainer:
    """One run in one folder: its history, as `history.py` has it, and `checkpoints/`.

    `listener` is called with every record that goes into `metrics.jsonl`: {"kind": "train" | "val" | "warning", ...}.
    `resume` is the checkpoint to continue from; its configuration must be `config`. `pretrained` has layers for a run
    that begins to begin with.
    """

    def __init__(
        self,
        config: Config,
        train_set: Dataset,
        val_set: Dataset,
        stats: RgbStats | None,
        options: RunOptions,
        listener: Callable[[Record], None] = lambda record: None,
        resume: Checkpoint | None = None,
        pretrained: Pretrained | None = None,
    ) -> None:
        assert resume is None or pretrained is None
        self.config, self.options, self.listener = config, options, listener
        self.train_set, self.val_set = train_set, in_training_classes(val_set, train_set.classes)
        self.stats, self.pretrained = stats, pretrained
        self.mesh = options.mesh
        self.mesh.check_same("configuration", config.to_json())
        self.mesh.check_same("data set", [train_set.fingerprint, val_set.fingerprint])
        self.mesh.check_same("network in --init-from", pretrained.fingerprint if pretrained else "")
        check_split(config, train_set.num_classes, self.mesh.dims)
        self.treatment = build_treatment(config, stats)
        self.bad: dict[int, str] = {}
        self._told: set[int] = set()  # bad images that the metrics name already
        self.settings = config.pin_decoding(options.settings)
        parameters = pretrained.parameters if pretrained else {}
        self.train_step = TrainStep(config, train_set.num_classes, self.mesh, options.execution, parameters)
        parameters.clear()  # as large as the network, and of no more use
        self.loader = build_loader(
            config,
            train_set,
            self.treatment,
            self.mesh,
            self.settings,
            num_epochs=config.epochs,
            lit=lambda epoch: self._rates(epoch).lighting,
            bad=self.bad,
            resident=options.resident,
        )
        model = self.train_step.model
        self.live_units = LiveUnits({"fc6": model.fc6, "fc7": model.fc7}, self.mesh.mp)
        self.meter = Meter(config, len(self.loader))
        board = TensorBoard(options.run_dir, len(self.loader)) if options.tensorboard else None
        self.history = History(options.run_dir, kept=self.mesh.is_main, tensorboard=board)
        self.agree = Agreement(self.mesh.world)
        self.epoch = self.step = 0  # of the next step
        self._stop_signal = 0
        if resume is not None:
            self._restore(resume)

    def fit(self) -> Record:
        """Train to the last epoch; return the last validation record."""
        with self.history.opened(self.config, self._start(), self.stats) as past, self.mesh.watched(self._where):
            validation: Record = {}
            self._delete_later_checkpoints()
            self.watch = Watch(self.config, self.train_set.labels, len(self.loader), past)
            self._saved, self._saved_at = time.monotonic(), self._steps_taken
            self.meter.start()
            for batch in self.meter.timed(self.loader.batches(self.epoch, self.step)):
                loss, logits = self.train_step(batch)
                self.meter.add(loss, logits, batch.labels)
                self.live_units.add()
                self.step += 1
                at_end = self.step == len(self.loader)
                if at_end or self.step % self.options.log_every == 0:
                    self._log_window()
                if at_end:
                    validation = self._end_epoch()
                stop_signal, overdue = self.agree(self._stop_signal, self._overdue())
                if stop_signal:
                    raise Interrupted(stop_signal, self.save())
                if self._checkpoint_due(at_end, overdue):
                    self.save()
            return validation or self._validate()

    def request_stop(self, signal_number: int) -> None:
        """Make `fit` finish its step, write a checkpoint and raise `Interrupted`; safe in a signal handler."""
        self._stop_signal = signal_number

    def classifier(self) -> Classifier:
        """Return the network itself, not a copy: further training changes it."""
        return Classifier(self.train_step.model, self.treatment, tuple(self.train_set.classes))

    def save(self) -> Path:
        """Check that the state is finite, write a checkpoint and return its path."""
        self._log_window()
        path = checkpoints.checkpoint_path(self.options.run_dir, self._steps_taken)
        if self.mesh.dp.index == 0:  # replicas are equal
            state = self._checkpoint()
            if self.mesh.is_main:
                checkpoints.save(path, state)
                checkpoints.prune(path, self.options.keep)
        self._saved, self._saved_at = time.monotonic(), self._steps_taken
        return path

    def _start(self) -> Start:
        execution = chosen_execution(self.options.execution, self.mesh.device)
        how = self.mesh, self.settings.threads, execution
        taken = self.pretrained.record() if self.pretrained else None
        return Start.now(self.epoch, self.step, self.train_set, self.val_set, *how, taken)

    # -- the parts of fit ----------------------------------------------------------------------------------

    def _log_window(self) -> None:
        if self.meter.is_empty:
            return
        counts = self._count_bad()  # first: it notices a rank that hangs, for which devices would wait
        record = self.meter.flush(self.epoch, self.step, self.mesh.dp)
        record |= {"lr": self._rates(self.epoch).weights, **self.live_units.flush(), **counts}
        if not np.isfinite(record["loss"]):
            raise self._diverged(f"The loss became {record['loss']}")
        if not all(bool(p.isfinite().all()) for p in self.train_step.model.parameters()):
            raise self._diverged("A weight is no longer finite")
        for told in (record, *self.watch.look(record)):
            self._tell(told)

    def _count_bad(self) -> Record:
        """Collect the bad images that all ranks met in their shares; TooManyBadFiles if there are too many."""
        for met in self.mesh.world.gather_objects(list(dict(self.bad).items())):  # in JSON, keys would become text
            add_bad(self.train_set, self.bad, dict(met), self.settings.max_bad)
        bad = dict(self.bad)  # a copy: reader threads add to it
        named = {self.train_set.name(i): reason for i, reason in sorted(bad.items()) if i not in self._told}
        self._told |= bad.keys()
        return {"bad_images": len(bad)} | ({"new_bad_images": named} if named else {})

    def _delete_later_checkpoints(self) -> None:
        """Delete the checkpoints after the one that this run resumed from: a restart must not find them."""
        path = checkpoints.checkpoint_path(self.options.run_dir, self._steps_taken)
        if self.mesh.is_main and path.exists():
            checkpoints.prune(path, self.options.keep)

    def _end_epoch(self) -> Record:
        record = self._validate()
        if not np.isfinite(record["loss"]):
            raise self._diverged(f"The validation loss became {record['loss']}")
        self._tell(record)
        self.train_step.schedule.observe(self.epoch, record["top1_error"])
        self.epoch, self.step = self.epoch + 1, 0
        return record

    def _validate(self) -> Record:
        """Measure errors on the validation set, one view; the meter does not count the time."""
        started = time.monotonic()
        result = evaluate(
            [self.classifier()],
            self.val_set,
            views=1,
            batch_size=self.options.eval_batch,
            mesh=self.mesh,
            settings=self.settings,
        )
        record = {"kind": "val", "epoch": self.epoch, "step": self.step, **asdict(result)}
        self.meter.pause(time.monotonic() - started)
        return record | {"seconds": round(time.monotonic() - started, 3), "bad": len(result.bad)}

    def _tell(self, record: Record) -> None:
        self.history.write(record)
        if self.mesh.is_main:
            self.listener(record)

    def _overdue(self) -> int:
        """Return how many of `SECONDS_BETWEEN_CHECKPOINTS` have passed, by the first rank's clock."""
        since = time.monotonic() - self._saved
        return sum(since > limit for limit in SECONDS_BETWEEN_CHECKPOINTS) if self.mesh.is_main else 0

    def _checkpoint_due(self, at_end: bool, overdue: int) -> bool:
        if self.epoch == self.config.epochs:
            return True
        if self.options.checkpoint_every is not None:
            return self._steps_taken % self.options.checkpoint_every == 0
        # A mesh learns at a step what was overdue the step before: that may be what has just been written.
        return overdue > (0 if at_end else 1) and self._steps_taken > self._saved_at + 1

    @property
    def _steps_taken(self) -> int:
        return self.epoch * len(self.loader) + self.step

    def _where(self) -> str:
        at_end = self.step == len(self.loader)
        return f"{'the validation after' if at_end else f'step {self.step + 1} of'} epoch {self.epoch + 1}"

    def _diverged(self, what: str) -> TrainingError:
        """Record why the run ends, for whoever reads its history, and return the error to raise."""
        last = checkpoints.latest(self.options.run_dir)
        good = f"The last good checkpoint is {last}." if last else "No checkpoint was written yet."
        what += f" in epoch {self.epoch + 1} within the {self.options.log_every} steps before step {self.step}."
        self.history.write({"kind": "warning", "epoch": self.epoch, "step": self.step, "sign": DIVERGED, "text": what})
        return TrainingError(f"{what} {good} Lower --lr (now {self.config.lr:g}) and start again.")

    def _rates(self, epoch: int) -> Rates:
        return self.train_step.schedule.rates(epoch)

    # -- state ---------------------------------------------------------------------------------------------

    def _checkpoint(self) -> Checkpoint:
        return Checkpoint(
            config=self.config,
            classes=list(self.train_set.classes),
            words=class_words(self.train_set.root, self.train_set.classes),
            epoch=self.epoch,
            step=self._steps_taken,
            dataset_fingerprint=self.train_set.fingerprint,
            stats_fingerprint=self.stats.fingerprint if self.stats else "",
            selection=self.train_set.selection,
            arrays={"mean": self.treatment.mean, "divisor": self.treatment.divisor},  # for evaluation
            **self.train_step.state(),
        )

    def _restore(self, saved: Checkpoint) -> None:
        checkpoints.check_trained_on(saved, self.train_set)
        self.train_step.restore(saved)
        self.epoch, self.step = saved.epoch, saved.step - saved.epoch * len(self.loader)
