"""What a supervisor and the host of an attached gateway say to each other.

From the host: ``hello``, ``started``, ``failed``, ``exited``, ``leaving``. From the supervisor:
``refused``, ``start`` (with descriptors: first the bootstrap), ``signal``. How a message looks is
in ``weirgate.shared.messages``.
"""

from weirgate.shared.errors import WeirgateError

PROTOCOL = 1
#: Descriptors have the numbers from here on in the gateway's process; the bootstrap names them.
FIRST_DESCRIPTOR = 200
#: A load page, a rate table, and a queue from each of at most 16 edges.
MAX_NUMBERED = 32


class AttachError(WeirgateError):
    """A host is refused, or a supervisor refuses."""
