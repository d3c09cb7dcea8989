"""Errors for the user, which `console/errors.py` shows as one line; any other error keeps its traceback."""


class UserError(ValueError):
    """Something that the user can fix. The message says what is wrong, where, and what to do."""


class DatasetError(UserError):
    """The data set is missing, or is not as it should be."""


class NoSplit(DatasetError):
    """The data set has nothing of this split."""


class RemoteError(DatasetError):
    """Data behind a URL cannot be read: no fault of the image that was wanted."""


class TooManyBadFiles(UserError):
    """More images are unusable than `max_bad` allows."""


class StatsError(UserError):
    """Colour statistics, or their file, are not as they should be."""


class CheckpointError(UserError):
    """A checkpoint cannot be used."""


class FeaturesError(UserError):
    """A folder of features is not as it should be, or cannot be written."""


class TrainingError(UserError):
    """Training cannot go on: the loss or a weight is no longer finite."""
