"""What is wrong with a configuration, where, and what would be right."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from weirgate.shared.config.watched import Signature
from weirgate.shared.errors import WeirgateError

Severity = Literal["error", "warning"]
PathStep = str | int


@dataclass(frozen=True, slots=True)
class Problem:
    """One finding; line and column count from 1, ``hint`` and ``wanted`` may be empty.

    In a label of a container there are no lines: then ``line`` is 0, and ``file`` names the label.
    """

    code: str
    severity: Severity
    file: str
    line: int
    column: int
    path: str
    got: str
    wanted: str
    hint: str
    #: ``path`` step by step, for programs.
    steps: tuple[PathStep, ...] = field(default=(), compare=False, repr=False)

    def render(self) -> str:
        """Return the finding as one line, the way compilers write theirs."""
        where = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        path = f" {self.path}:" if self.path else ""
        wanted = f", wanted {self.wanted}" if self.wanted else ""
        hint = f" (hint: {self.hint})" if self.hint else ""
        return f"{where}: {self.severity} {self.code}:{path} got {self.got}{wanted}{hint}"

    def as_dict(self) -> dict[str, str | int]:
        """Return the fields for JSON."""
        fields = asdict(self)
        del fields["steps"]
        return fields


class ConfigErrors(WeirgateError):  # noqa: N818 - it holds many
    """A configuration was refused; ``problems`` has everything found, not only the first.

    ``files`` are those that had been read, as they were then: a change of one can be the remedy.
    """

    def __init__(
        self, problems: Iterable[Problem], files: Mapping[Path, Signature] | None = None
    ) -> None:
        self.problems = list(problems)
        self.files: Mapping[Path, Signature] = files or {}
        super().__init__("\n".join(problem.render() for problem in self.problems))


def render_path(path: Sequence[PathStep]) -> str:
    """Write ``("routes", 3, "match")`` as ``routes[3].match``."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        elif step and all(c.isalnum() or c in "_-" for c in step):
            text += f".{step}" if text else step
        else:
            text += f'["{step}"]'
    return text
