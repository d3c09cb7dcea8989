"""The network and its training.

Reading order. What is trained: `settings/` and `config.py` (every number, with its source), `network/` (the network and
its faster layers). One step: `treatment.py` (what is done to images), `gradient.py` (forward and backward),
`optimizer.py` (the paper's update and its schedules), `step.py` (the whole step). One run: `meter.py` (a window of
steps), `health.py` (does it learn?), `starts.py`, `tensorboard.py` and `history.py` (the run folder), `checkpoint.py`
(the file), `trainer.py` (the loop). Around a run: `memory.py` (does the batch fit?), `resume.py` (which checkpoint?),
`unreadable.py` (what is none), `published.py`, `safe_tensors.py` and `saved.py` (other files of a network, any file),
`classifier.py` (a trained network), `export/` (for other programs), `pretrained.py` (what a new run takes from one),
`probabilities.py` (saved, to be averaged later), `evaluate.py` (exact errors), `outcomes.py` (errors by class),
`features.py` and `feature_folder.py` (a layer's activations for every image), `kept_features.py` (those that figures
start from), `row_blocks.py` and `nearest.py` (the nearest rows, exactly), `hamming.py`, `autoencoder.py` and `codes.py`
(binary codes), `figures/` (what the paper showed), `report/` (a run on one page), `ablation/` (many runs compared),
`cifar/` (the paper's experiments on CIFAR-10), `bench.py` (how fast it is on a mesh). Several devices: `parallel/`.
"""
