"""Why a node cannot start."""

from weirgate.shared.errors import WeirgateError


class StartError(WeirgateError):
    """The node cannot start; the text says what to change."""


class InheritedError(WeirgateError):
    """A socket that was passed to us does not do; the text says which setting is wrong."""


class BindError(StartError):
    """One or more addresses cannot be listened on; one line for each."""
