"""A check that this host could not even begin: it says nothing of the endpoint."""

import errno
import logging

from weirgate.shared.observability.logs import fields

log = logging.getLogger(__name__)

#: No descriptor, no port, no memory: all of them ours.
_OURS = frozenset({errno.EMFILE, errno.ENFILE, errno.EADDRNOTAVAIL, errno.ENOBUFS, errno.ENOMEM})


class ExhaustedError(Exception):
    """This host lacks what a check needs; the text says what."""


def is_ours(error: BaseException, address: str) -> bool:
    """Say whether a failure to connect to an address is this host's and not the endpoint's."""
    if not isinstance(error, OSError):
        return False
    if error.errno == errno.EADDRNOTAVAIL and address.startswith("["):
        return False  # a host without IPv6 says that, too, and then it will not pass
    return error.errno in _OURS


class Word:
    """Says once that endpoints cannot be checked, and once that they can be again."""

    def __init__(self) -> None:
        self._said = False

    def exhausted(self, error: ExhaustedError) -> None:
        """A check could not be made."""
        if not self._said:
            log.error(
                "endpoints cannot be checked, their states stay", extra=fields(error=str(error))
            )
        self._said = True

    def made(self) -> None:
        """A check was made, whatever it found."""
        if self._said:
            log.info("endpoints are checked again")
        self._said = False
