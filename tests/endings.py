"""A process that uses the loader and ends in some way, for `test_endurance.py`: `python endings.py TREE WAY`.

It says "going" when batches come; what is still alive then must not keep it from ending.
"""

import sys
import time
from pathlib import Path

import numpy as np

from alexnet.pipeline.dataset.open import open_dataset
from alexnet.pipeline.decode.settings import Settings
from alexnet.pipeline.loader import Loader
from alexnet.pipeline.treatment import Treatment

loader = Loader(
    open_dataset(Path(sys.argv[1]), "train"),
    Treatment(mean=np.zeros(3, np.float32)),
    batch_size=5,
    seed=0,
    num_epochs=10**6,
    settings=Settings(threads=2, readers=2),
)
batches = iter(loader)
next(batches)
print("going", flush=True)
way = sys.argv[2]
if way == "loop":
    for _ in batches:
        pass
elif way == "wait":
    time.sleep(1000)
elif way == "error":
    for _ in batches:
        raise ZeroDivisionError("in the training loop")
elif way == "leave":
    others = [iter(loader) for _ in range(3)]
    for other in others:
        next(other)
    sys.exit(7)
elif way == "drop":
    batches = None  # type: ignore[assignment]
