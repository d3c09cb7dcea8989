"""Which learning rate reaches 25% training error first: a race in which the slow leave early.

`figure1.py` holds one for each neuron, as the paper did: "the learning rates for each network were chosen
independently to make training as fast as possible". Every two epochs the third with the highest training error leaves,
until two rates are left; the race ends once a rate has reached 25%. So seven rates cost about as much as three to the
end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from .run import Outcome

ROUND = 2  # epochs
LAST = 2  # rates that race to the end

Advance = Callable[[Sequence[float], int], Mapping[float, Outcome]]


def race(rates: Sequence[float], advance: Advance, most_epochs: int) -> dict[float, Outcome]:
    """Return how far each rate came; `advance` trains rates to the end of an epoch, or to 25% before."""
    running, outcomes = list(rates), dict[float, Outcome]()
    for epoch in [*range(ROUND, most_epochs, ROUND), most_epochs]:
        outcomes.update(advance(running, epoch))
        if fastest(outcomes) is not None:
            break
        running = survivors({rate: outcomes[rate] for rate in running})
        if not running:
            break
    return outcomes


def survivors(outcomes: Mapping[float, Outcome]) -> list[float]:
    """Return the rates that go on, in their order: two thirds, at least two, and none that diverged."""
    alive = [rate for rate, outcome in outcomes.items() if not outcome.diverged]
    wanted = max(LAST, -(-2 * len(outcomes) // 3))
    best = sorted(alive, key=lambda rate: outcomes[rate].last_error())[:wanted]
    return [rate for rate in alive if rate in best]


def fastest(outcomes: Mapping[float, Outcome]) -> float | None:
    """Return the rate that reached 25% first; None if none did."""
    arrived = {rate: at for rate, outcome in outcomes.items() if (at := outcome.epochs_to_target()) is not None}
    return min(arrived, key=lambda rate: arrived[rate], default=None)
