"""TODO"""

from __future__ import annotations


class StatsError(ValueError):
    """Statistics or their file are not as they should be; the message says where and how."""


class NoCache(ValueError):
    """There is no cache folder to write into, and something cannot do without."""


class DatasetError(ValueError):
    """The data set is not there, or not as it should be; the message says where, what and what to do."""


class NoSplit(DatasetError):
    """There is a data set, and nothing of this split in it."""


class TooManyBadFiles(ValueError):
    """More images cannot be used than the caller accepts."""


class CheckpointError(ValueError):
    """A checkpoint that cannot be used, and why."""


class RunFolderInUse(ValueError):
    """Two runs must not write into one folder."""


class TrainingError(ValueError):
    """Training cannot go on; the message says why, where, and what to do."""
