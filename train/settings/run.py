"""What a run starts from: a preset and its seeds. `network.py` comes next."""

from dataclasses import dataclass
from typing import NamedTuple

from .setting import setting


class Seeds(NamedTuple):
    """The seeds that a run uses, where `Config` leaves one to `seed` too."""

    init_seed: int
    data_seed: int


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """Values that other settings do not name take those of the preset."""

    preset: str = setting("paper", "the values to start from", "ours")
    seed: int = setting(0, "seeds all that is random: see init_seed and data_seed", "ours", low=0)
    init_seed: int | None = setting(None, "seeds the initial weights; none: as seed", "ours", low=0)
    data_seed: int | None = setting(
        None,
        "seeds what is drawn anew for each epoch or step: order, crops, flips, lighting, and dropout; none: as seed",
        "ours",
        low=0,
    )

    @property
    def seeds(self) -> Seeds:
        """The seeds in use."""
        given = (self.init_seed, self.data_seed)
        return Seeds(*(self.seed if one is None else one for one in given))
