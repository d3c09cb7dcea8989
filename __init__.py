"""AlexNet, the network of 2012, at the speed of today's hardware.

Reading order: `cli.py` (what can be asked for), `pipeline/` (from files to batches), `pca/` (the colour statistics of a
training set), `train/` (the network, its training, its evaluation). Beside them, `console/` is everything about a
terminal. `README.md` leads through the files in the order in which an image passes through them.

As a library, `from alexnet import Loader` and so on: `docs/api.md` has a description of each name. They are imported
when they are first asked for, so that `alexnet --help` needs neither torch nor DALI.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .pca.compute import compute_stats as compute_stats
    from .pca.stats import RgbStats as RgbStats
    from .pipeline.dataset.images import Dataset as Dataset
    from .pipeline.dataset.open import open_dataset as open_dataset
    from .pipeline.dataset.selection import Selection as Selection
    from .pipeline.decode.settings import Settings as Settings
    from .pipeline.errors import UserError as UserError
    from .pipeline.loader import Batch as Batch
    from .pipeline.loader import Loader as Loader
    from .pipeline.treatment import Treatment as Treatment
    from .train.classifier import Classifier as Classifier
    from .train.classifier import load_classifier as load_classifier
    from .train.config import Config as Config
    from .train.evaluate import Evaluation as Evaluation
    from .train.evaluate import evaluate as evaluate
    from .train.network.model import AlexNet as AlexNet
    from .train.trainer import RunOptions as RunOptions
    from .train.trainer import Trainer as Trainer

__version__ = "0.1.0"

PUBLIC = {  # what people take parts of, and the module that has it
    "AlexNet": "train.network.model",
    "Batch": "pipeline.loader",
    "Classifier": "train.classifier",
    "Config": "train.config",
    "Dataset": "pipeline.dataset.images",
    "Evaluation": "train.evaluate",
    "Loader": "pipeline.loader",
    "RgbStats": "pca.stats",
    "RunOptions": "train.trainer",
    "Selection": "pipeline.dataset.selection",
    "Settings": "pipeline.decode.settings",
    "Trainer": "train.trainer",
    "Treatment": "pipeline.treatment",
    "UserError": "pipeline.errors",
    "compute_stats": "pca.compute",
    "evaluate": "train.evaluate",
    "load_classifier": "train.classifier",
    "open_dataset": "pipeline.dataset.open",
}
__all__ = [*PUBLIC]


def __getattr__(name: str) -> Any:
    if name not in PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{PUBLIC[name]}", __name__), name)


def __dir__() -> list[str]:
    return [*globals(), *PUBLIC]
