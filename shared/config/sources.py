"""What limits per source count as one source."""

from typing import Annotated

from pydantic import Field

from weirgate.shared.config.base import Section


class SourcePrefix(Section):
    """How many leading bits of an address make one source."""

    ipv4: Annotated[int, Field(ge=1, le=32)] = Field(
        default=32, description="Of an IPv4 address, also of one that is written as IPv6."
    )
    ipv6: Annotated[int, Field(ge=1, le=128)] = Field(
        default=64,
        description="Of an IPv6 address. 64 is one network, of which anybody has all addresses; "
        "56 or 48 is what one household or company is given.",
    )
