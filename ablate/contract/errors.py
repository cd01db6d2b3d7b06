"""The errors a user can cause, each told in one line."""


class UserError(ValueError):
    """A mistake the user can mend: the message names the value, the rule and the cure."""


class IncompatibleRun(UserError):
    """A run that cannot exist, refused before anything expensive starts."""


class FailedPreflight(UserError):
    """A check before the first update failed; nothing was trained."""


class DivergedRun(UserError):
    """A reward, loss or gradient that is not finite; what was recorded before stays."""
