"""The paper's experiments on CIFAR-10: ReLU against tanh (Figure 1), and response normalisation (section 3.3).

Reading order. What is trained on: `binary.py` (the official files) and `images.py` (any form of the data set, in
memory), `views.py` (a batch of it, cropped or whole). What is trained: `layers.py` and `networks.py`, `settings.py`
(all that determines a run), `run.py` (the update, and a run that can be killed at any time). The experiments:
`curve.py` (training error by epoch), `race.py` (which rate is fastest?), `workers.py` (several runs at once),
`figure1.py` and `normalisation.py` (what is run, and its tables), `tables.py` (Markdown). `figures/figure1.py` draws.
"""
