"""The network and its training.

Reading order: `config.py` (every switch, with its source), `model.py` (the network), `optimizer.py` (the
paper's update and its schedules), `trainer.py` (the loop), `checkpoint.py`, `evaluate.py`.
"""
