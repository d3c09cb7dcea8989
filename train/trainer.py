"""The training loop: batches in, a trained network and its history out.

`fit` is the outline: step, log, and at an epoch's end validate, adapt the rates, checkpoint. Everything random
about a step follows from (seed, epoch, step), so a run continued from a checkpoint ends with the same bits as one
that was never interrupted (same machine, same mesh, same number of threads). Every rank of a mesh runs this loop; the
first one writes.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from ..pca.stats import RgbStats
from ..pipeline.dataset.classes import in_training_classes
from ..pipeline.dataset.images import Dataset
from ..pipeline.dataset.labels import class_words
from ..pipeline.decode.bad_images import add_bad
from ..pipeline.decode.settings import Settings
from ..pipeline.errors import TrainingError
from ..pipeline.loader import Batch, BatchSource, Loader
from ..train import checkpoint as checkpoints
from .checkpoint import Checkpoint
from .classifier import Classifier
from .config import Config
from .evaluate import evaluate
from .health import LiveUnits, Watch
from .history import History, Record
from .meter import Meter
from .network.model import AlexNet, initialise
from .optimizer import build_optimizer, build_schedule, set_rates
from .parallel.mesh import Agreement, Mesh
from .parallel.split import GradientSum, check_split, make_replicas_equal, own_part, parallelize, whole_state
from .parallel.tower_loader import PairLoader
from .step import build_gradient
from .treatment import build_treatment

log = logging.getLogger("alexnet")

SECONDS_BETWEEN_CHECKPOINTS = 600, 60  # at any step, at the end of an epoch


class Interrupted(Exception):
    """A signal asked the run to stop; its checkpoint is written."""

    def __init__(self, signal_number: int, path: Path) -> None:
        super().__init__(f"Stopped by signal {signal_number}; continue with --resume (checkpoint {path}).")
        self.signal_number = signal_number


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How a run is carried out. Nothing here changes what it computes."""

    run_dir: Path
    settings: Settings
    mesh: Mesh = field(default_factory=Mesh)
    execution: str | None = None  # on GPUs: one of step.EXECUTIONS, or what is best for most
    log_every: int = 20  # steps
    checkpoint_every: int | None = None  # steps; None: at the end of epochs, at least every ten minutes
    keep: int = 2  # checkpoints
    eval_batch: int = 128


class Trainer:
    """One run in one folder: `config.json`, `metrics.jsonl`, `checkpoints/`.

    `listener` is called with every record that goes into `metrics.jsonl`: {"kind": "train" | "val" | "warning", ...}.
    `resume` is the checkpoint to continue from; its configuration must be `config`.
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
    ) -> None:
        self.config, self.options, self.listener = config, options, listener
        self.train_set, self.val_set = train_set, in_training_classes(val_set, train_set.classes)
        self.stats = stats
        self.mesh = options.mesh
        self.mesh.check_same("configuration", config.to_json())
        self.mesh.check_same("data set", [train_set.fingerprint, val_set.fingerprint])
        check_split(config, train_set.num_classes, self.mesh.dims)
        self.treatment = build_treatment(config, stats)
        self.bad: dict[int, str] = {}
        self._told: set[int] = set()  # those of them that the metrics name
        self.loader: BatchSource = self.build_loader(config.epochs)
        with torch.device("meta"):  # torch's own initial weights would be drawn for nothing
            self.model = AlexNet(config, train_set.num_classes)
        self.model.to_empty(device="cpu")
        initialise(self.model, config.seed)
        parallelize(self.model, self.mesh)
        self.model.to(self.mesh.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        make_replicas_equal(self.model, self.mesh.dp)
        self.gradient = build_gradient(
            self.model, config.batch_size, self.mesh.device, self.mesh.dims.num_ranks, options.execution
        )
        self.gradients = GradientSum(self.model, self.mesh.dp)
        self.live_units = LiveUnits({"fc6": self.model.fc6, "fc7": self.model.fc7}, self.mesh.mp)
        self.optimizer = build_optimizer(self.model, config)
        self.schedule = build_schedule(config)
        self.history = History(options.run_dir, kept=self.mesh.is_main)
        self.agree = Agreement(self.mesh.world)
        self.epoch = self.step = 0  # of the next step to be taken
        self.stop_signal = 0
        if resume is not None:
            self._restore(resume)

    def fit(self) -> Record:
        """Train to the last epoch; returns the last validation record."""
        with self.history.opened(self.config, self.epoch, self.step) as past, self.mesh.watched(self._where):
            validation: Record = {}
            self._leave_other_course()
            self.meter = Meter(self.config, len(self.loader))
            self.watch = Watch(self.config, self.train_set.labels, len(self.loader), past)
            self._saved = time.monotonic()
            for batch in self.meter.timed(self.loader.batches(self.epoch, self.step)):
                self.train_step(batch)
                self.step += 1
                at_end = self.step == len(self.loader)
                if at_end or self.step % self.options.log_every == 0:
                    self._log_window()
                if at_end:
                    validation = self._end_epoch()
                stop_signal, overdue = self.agree(self.stop_signal, self._overdue())
                if stop_signal:
                    raise Interrupted(stop_signal, self.save())
                if self._checkpoint_due(at_end, overdue):
                    self.save()
            return validation or self._validate()

    def train_step(self, batch: Batch) -> None:
        """One forward, one backward, one update; nothing here waits for the device.

        The loss is this rank's share of the batch's mean, so gradients and losses of the ranks add up.
        """
        torch.manual_seed(_dropout_seed(self.config.seed, batch.epoch, batch.step))
        set_rates(self.optimizer, self.schedule.rates(batch.epoch))
        self.model.train()
        loss, logits = self.gradient(batch.images, batch.labels)
        self.gradients.finish()
        self.live_units.add()
        self.optimizer.step()
        self.meter.add(loss, logits, batch.labels)

    def classifier(self) -> Classifier:
        return Classifier(self.model, self.treatment, tuple(self.train_set.classes))

    def save(self) -> Path:
        """Write a checkpoint of the present state, which closing the window has found to be finite."""
        self._log_window()
        path = checkpoints.checkpoint_path(self.options.run_dir, self._steps_taken)
        if self.mesh.dp.index == 0:  # of equal replicas
            state = self._checkpoint()
            if self.mesh.is_main:
                checkpoints.save(path, state)
                checkpoints.prune(path, self.options.keep)
        self._saved = time.monotonic()
        return path

    # -- the parts of fit ----------------------------------------------------------------------------------

    def _log_window(self) -> None:
        if self.meter.is_empty:
            return
        counts = self._count_bad()  # first: ranks that hang are found here, while on their devices all would wait
        record = self.meter.flush(self.epoch, self.step, self.mesh.dp)
        record |= {"lr": self.schedule.rates(self.epoch).weights, **self.live_units.flush(), **counts}
        if not np.isfinite(record["loss"]):
            raise self._diverged(f"The loss became {record['loss']}")
        if not all(bool(p.isfinite().all()) for p in self.model.parameters()):
            raise self._diverged("A weight is no longer finite")
        for told in (record, *self.watch.look(record)):
            self._tell(told)

    def _count_bad(self) -> Record:
        """Of all ranks: each has met those of its share."""
        for met in self.mesh.world.gather_objects(dict(self.bad)):
            add_bad(self.train_set, self.bad, met, self.options.settings.max_bad)
        bad = dict(self.bad)  # readers add to it
        named = {self.train_set.name(i): reason for i, reason in sorted(bad.items()) if i not in self._told}
        self._told |= bad.keys()
        return {"bad_images": len(bad)} | ({"new_bad_images": named} if named else {})

    def _leave_other_course(self) -> None:
        """A restart must not find what came after the checkpoint that this run was resumed from."""
        path = checkpoints.checkpoint_path(self.options.run_dir, self._steps_taken)
        if self.mesh.is_main and path.exists():
            checkpoints.prune(path, self.options.keep)

    def _end_epoch(self) -> Record:
        record = self._validate()
        if not np.isfinite(record["loss"]):
            raise self._diverged(f"The validation loss became {record['loss']}")
        self._tell(record)
        self.schedule.observe(self.epoch, record["top1_error"])
        self.epoch, self.step = self.epoch + 1, 0
        return record

    def _validate(self) -> Record:
        """Errors on the validation set, one view."""
        o = self.options
        started = time.monotonic()
        result = evaluate(
            [self.classifier()],
            self.val_set,
            views=1,
            batch_size=o.eval_batch,
            mesh=self.mesh,
            settings=o.settings,
        )
        record = {"kind": "val", "epoch": self.epoch, "step": self.step, **asdict(result)}
        self.meter.pause(time.monotonic() - started)
        return record | {"seconds": round(time.monotonic() - started, 3), "bad": len(result.bad)}

    def _tell(self, record: Record) -> None:
        self.history.write(record)
        if self.mesh.is_main:
            self.listener(record)

    def _overdue(self) -> int:
        """How many of the limits between checkpoints have passed, by the first rank's clock."""
        since = time.monotonic() - self._saved
        return sum(since > limit for limit in SECONDS_BETWEEN_CHECKPOINTS) if self.mesh.is_main else 0

    def _checkpoint_due(self, at_end: bool, overdue: int) -> bool:
        if self.epoch == self.config.epochs:
            return True
        if self.options.checkpoint_every is not None:
            return self._steps_taken % self.options.checkpoint_every == 0
        return overdue > (0 if at_end else 1)

    @property
    def _steps_taken(self) -> int:
        return self.epoch * len(self.loader) + self.step

    def _where(self) -> str:
        at_end = self.step == len(self.loader)
        return f"{'the validation after' if at_end else f'step {self.step + 1} of'} epoch {self.epoch + 1}"

    def _diverged(self, what: str) -> TrainingError:
        last = checkpoints.latest(self.options.run_dir)
        good = f"The last good checkpoint is {last}." if last else "No checkpoint was written yet."
        where = f"in epoch {self.epoch + 1} within the {self.options.log_every} steps before step {self.step}"
        return TrainingError(f"{what} {where}. {good} Lower --lr (now {self.config.lr:g}) and start again.")

    def build_loader(self, num_epochs: int) -> BatchSource:
        c, o = self.config, self.options
        source = Loader(
            self.train_set,
            self.treatment,
            batch_size=c.batch_size,
            seed=c.seed,
            num_epochs=num_epochs,
            lit=lambda epoch: self.schedule.rates(epoch).lighting,
            settings=o.settings,
            bad=self.bad,
            half=self.mesh.device.type == "cuda",
            images_per_crop=c.augment_run,
            random_crop=c.random_crop,
            random_flip=c.random_flip,
            rank=self.mesh.world.index,
            num_ranks=self.mesh.world.size,
        )
        return PairLoader(source, self.mesh)

    # -- state ---------------------------------------------------------------------------------------------

    def _checkpoint(self) -> Checkpoint:
        arrays = {"mean": self.treatment.mean, "divisor": self.treatment.divisor}  # for evaluation alone
        return Checkpoint(
            config=self.config,
            classes=list(self.train_set.classes),
            words=class_words(self.train_set.root, self.train_set.classes),
            epoch=self.epoch,
            step=self._steps_taken,
            model=whole_state(self.model.state_dict(), self.model, self.mesh.mp),
            momentum=whole_state(checkpoints.momentum_by_name(self.model, self.optimizer), self.model, self.mesh.mp),
            rates=checkpoints.rates_by_group(self.optimizer),
            schedule=self.schedule.state_dict(),
            dataset_fingerprint=self.train_set.fingerprint,
            stats_fingerprint=self.stats.fingerprint if self.stats else "",
            arrays=arrays,
        )

    def _restore(self, saved: Checkpoint) -> None:
        checkpoints.check_trained_on(saved, self.train_set)
        mp = self.mesh.mp
        part = replace(saved, model=own_part(saved.model, mp), momentum=own_part(saved.momentum, mp))
        checkpoints.restore(part, self.model, self.optimizer)
        self.schedule.load_state_dict(saved.schedule)
        self.epoch, self.step = saved.epoch, saved.step - saved.epoch * len(self.loader)


def _dropout_seed(seed: int, epoch: int, step: int) -> int:
    """A seed for each step's dropout masks, from what a checkpoint holds."""
    return int(np.random.SeedSequence([seed, epoch, step, 0xD0]).generate_state(1, np.uint64)[0] >> 1)
