"""What the trained network does on the validation set: its errors, class by class, and its confusions.

After `evaluate.py` and `outcomes.py`; `page.py` prints it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ...pipeline.dataset.images import Dataset
from ...pipeline.decode.settings import Settings
from ..classifier import Classifier
from ..evaluate import Evaluation, evaluate, in_classes_of
from ..features import BATCH_ON_CPU, BATCH_ON_GPU
from ..outcomes import ClassErrors, Confusion, Outcomes
from ..parallel.mesh import Mesh

NUM_CONFUSED = 10  # pairs of classes


@dataclass(frozen=True)
class Measured:
    """Errors on the validation set; classes are listed with the worst first, confusions with the most frequent."""

    errors: Evaluation
    classes: list[ClassErrors]
    confused: list[Confusion]


def measure(
    classifier: Classifier,
    val_set: Dataset,
    views: int,
    mesh: Mesh,
    settings: Settings,
    progress: Callable[[int], None] = lambda done: None,
) -> Measured:
    """Evaluate once, every image counted. Raises what `evaluate` raises."""
    matched = in_classes_of([classifier], val_set)
    outcomes = Outcomes(matched.labels, matched.classes)
    errors = evaluate(
        [classifier],
        val_set,
        views=views,
        batch_size=BATCH_ON_GPU if mesh.device.type == "cuda" else BATCH_ON_CPU,
        mesh=mesh,
        settings=settings,
        progress=progress,
        observe=lambda scored: outcomes.add(scored.indices, scored.average),
    )
    return Measured(errors, outcomes.class_errors(), outcomes.most_confused(NUM_CONFUSED))
