"""Names of hosts, in the form in which clients send them."""

import re

import idna

#: What stands between labels in the scripts that have a full stop of their own (UTS #46).
_DOTS = re.compile("[.\u3002\uff0e\uff61]")


def ascii_host(text: str) -> str:
    """Return a host in lower case, without a final dot, and its Unicode labels as A-labels.

    Labels are mapped as browsers do it (UTS #46, not transitional). ASCII ones stay what they
    are: DNS has more of them than IDNA allows, such as ``_dmarc``.

    Raises:
        UnicodeError: A label has no A-label.
    """
    labels = [_ascii_label(label) for label in _DOTS.split(text)]
    return ".".join(labels).removesuffix(".")


def _ascii_label(label: str) -> str:
    if label.isascii():
        return label.lower()
    return idna.encode(label, uts46=True).decode("ascii")
