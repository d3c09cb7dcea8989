"""The settings of the optimisation: order, steps, rates by layer and epoch, and the final evaluation."""

from dataclasses import dataclass
from typing import Literal

from .setting import setting


@dataclass(frozen=True, kw_only=True)
class OptimisationSettings:
    """Rates are of weights, for gradients of the batch's mean loss; epochs are counted from 0."""

    window: int | None = setting(
        None,
        "an epoch goes through the shards in random order and mixes within this many images; none: mix all images, "
        "unless --cache-size holds too few of remote ones: then as many as it allows",
        "ours",
        low=1,
    )
    batch_size: int = setting(128, "images per step, all devices together", "paper s5; owt 256, [TV]", low=1)
    lr: float = setting(0.01, "initial learning rate of weights", "paper s5", low=1e-12)
    bias_lr_factor: float = setting(
        1.0, "rate of biases / rate of weights", "paper s5; original 2, [O] layer-params-120-4gpu.cfg", low=1e-6
    )
    bias_lr_floor: float = setting(
        0.0, "lowest rate of biases", "paper s5; original .002, [O] layer-params-145-2010.cfg", low=0
    )
    momentum: float = setting(0.9, "share of the velocity kept", "paper s5", low=0, high=0.9999)
    weight_decay: float = setting(5e-4, "inside the velocity", "paper s5; owt 1e-4, [TV]", low=0)
    decay_biases: bool = setting(False, "weight decay on biases too", "[O] layer.cu; owt on, [TV]")
    epochs: int = setting(90, "passes over the training set", "paper s5; original 91, [O] #145", low=1)
    schedule: Literal["plateau", "epochs", "stages", "fine-tune", "steps"] = setting(
        "plateau",
        "plateau: drop when the validation error stalls; epochs: the authors' log; stages: equal "
        "stages, the last without colour noise; fine-tune: the authors' log of a network that learned other "
        "classes before; steps: drops at given epochs",
        "paper s5; original epochs; stages is [O] #170, fine-tune #146; caffe steps, [CF]",
    )
    drop_factor: float = setting(10.0, "what a drop divides the rate by, of any schedule but stages", "paper s5", low=1)
    num_drops: int = setting(3, "plateau: number of drops", "paper s5", low=0)
    plateau_patience: int = setting(5, "plateau: epochs without gain before a drop", "ours; by hand in 2012", low=1)
    plateau_min_delta: float = setting(1e-3, "plateau: least fall of top-1 error that is a gain", "ours", low=0, high=1)
    epoch_log: tuple[int, ...] = setting(
        (25, 51, 67, 72, 79, 91),
        "epochs: first drop; second drop; third drop of conv1 alone, and no more colour noise; conv1 frozen; "
        "third drop of the rest; end. Stretched to --epochs",
        "[O] layer-params-145.cfg",
        low=1,
    )
    fine_tune_log: tuple[int, ...] = setting(
        (7, 22, 38, 42, 54),
        "fine-tune: conv1 frozen; first drop; no more colour noise; second drop; end. Stretched to --epochs. fc8 "
        "learns at lr, the others one drop below it, conv1 two",
        "[O] layer-params-146-2012-2011.cfg",
        low=1,
    )
    fc8_wait: int = setting(
        300,
        "fine-tune: batches of the first epoch in which fc8 learns no faster than the others",
        "[O] layer-params-146-2012-2011.cfg",
        low=0,
    )
    step_log: tuple[int, ...] = setting(
        (20, 40, 60, 80, 90),
        "steps: the drops; end. Stretched to --epochs",
        "[CF]: every 100,000 of 450,000 batches of 256",
        low=1,
    )
    num_stages: int = setting(4, "stages: how many", "[O] layer-params-170.cfg; owt 3, [TV]", low=1)
    stage_factor: float = setting(
        250.0, "stages: first rate / last rate", "[O] layer-params-170.cfg; owt 100, [TV]", low=1
    )
    freeze: tuple[str, ...] = setting((), "layers that do not learn, such as conv1,conv2", "ours")
    layer_lr: tuple[str, ...] = setting(
        (), "factors of single layers' rates, such as fc8=10,conv1=0.1", "ours; [O] has a rate for each layer"
    )
    views: Literal[1, 10] = setting(10, "views of each image in the final evaluation", "paper s4.1; owt 1, [TV]")
