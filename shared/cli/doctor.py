"""``weirgate doctor``: what in this host would hold a configuration back."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

import typer

from weirgate.shared.cli.exit_codes import Exit
from weirgate.shared.config import Config, ConfigErrors, load
from weirgate.shared.doctor.checks import examine
from weirgate.shared.doctor.finding import Finding
from weirgate.shared.doctor.host import Host


def run(file: Path | None, *, as_json: bool, proc: Path = Path("/proc")) -> Exit:
    """Examine the host; return the exit code: 1 where a finding is an error."""
    try:
        config = Config() if file is None else load(file, dict(os.environ)).config
    except ConfigErrors as error:
        for problem in error.problems:
            typer.echo(problem.render(), err=True)
        return Exit.CONFIGURATION
    findings = examine(Host(proc), config)
    if as_json:
        document = {
            "configuration": None if file is None else str(file),
            "ok": not _has_errors(findings),
            "findings": [finding.as_dict() for finding in findings],
        }
        typer.echo(json.dumps(document, indent=2))
    else:
        for finding in findings:
            typer.echo(_text(finding))
        typer.echo(_summary(findings))
    return Exit.CONFIGURATION if _has_errors(findings) else Exit.OK


def _has_errors(findings: Sequence[Finding]) -> bool:
    return any(finding.severity == "error" for finding in findings)


def _text(finding: Finding) -> str:
    line = f"{finding.severity:<8} {finding.setting} = {finding.value}: {finding.why}"
    if finding.wanted:
        line += f"\n{'':<9}wanted: {finding.wanted}"
    if finding.command:
        line += f"\n{'':<9}mend:   {finding.command}"
    return line


def _summary(findings: Sequence[Finding]) -> str:
    counts = {
        severity: sum(finding.severity == severity for finding in findings)
        for severity in ("error", "warning", "unknown", "ok")
    }
    names = {
        "error": "hold this configuration back",
        "warning": "may hold it back",
        "unknown": "could not be read",
        "ok": "are fine",
    }
    return ", ".join(f"{counts[key]} {text}" for key, text in names.items() if counts[key])
