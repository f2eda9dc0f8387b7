"""Exit codes, the same for every verb; 2 is the shell convention for wrong usage."""

from enum import IntEnum


class Exit(IntEnum):
    """How a verb ended."""

    OK = 0
    CONFIGURATION = 1
    USAGE = 2
    CANNOT_START = 3
    NOT_REACHABLE = 4
    NOT_IN_TIME = 5
    NOT_READY = 6


HELP = (
    "Exit codes: 0 ok · 1 the configuration has errors, or it was refused · 2 wrong usage · "
    "3 cannot start · 4 no instance answers · 5 not in time · 6 not ready"
)
