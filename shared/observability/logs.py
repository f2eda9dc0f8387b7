"""The supervisor's own log: one readable line per event on stderr, ``key=value`` after the message.

The access log is not here: the data planes write it themselves.
"""

import atexit
import logging
import sys
from datetime import UTC, datetime
from logging.handlers import QueueHandler, QueueListener
from queue import SimpleQueue
from typing import Any

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warn": logging.WARNING}


def fields(**values: object) -> dict[str, Any]:
    """Name the fields of a log line: ``log.info("child ended", extra=fields(code=1))``."""
    return {"fields": values}


def set_up(level: str = "info") -> None:
    """Send everything at or above the level to stderr, from a thread of its own.

    A full stderr pipe then delays log lines, never health checks or a reload.
    """
    queue: SimpleQueue[logging.LogRecord] = SimpleQueue()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter())
    listener = QueueListener(queue, handler)
    listener.start()
    atexit.register(listener.stop)
    root = logging.getLogger()
    root.handlers = [_PlainQueueHandler(queue)]
    set_level(level)
    for noisy in ("asyncio", "httpx", "httpcore", "uvicorn", "docker", "urllib3"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def set_level(level: str) -> None:
    """Change the level, by the name that the configuration uses."""
    name = level.lower()
    logging.getLogger().setLevel(_LEVELS.get(name, name.upper()))


class LineFormatter(logging.Formatter):
    """``2026-01-31T12:00:00.000Z level message key=value``."""

    def format(self, record: logging.LogRecord) -> str:
        """Put the record on one line; only a traceback adds more."""
        moment = datetime.fromtimestamp(record.created, UTC)
        stamp = moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"
        words = [stamp, record.levelname.lower(), _one_line(record.getMessage())]
        values: dict[str, object] = getattr(record, "fields", {})
        words += [f"{key}={_value(value)}" for key, value in values.items()]
        line = " ".join(words)
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


class _PlainQueueHandler(QueueHandler):
    """Hands records over as they are: the queue does not leave the process."""

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        return record


def _one_line(text: str) -> str:
    return text.replace("\r", "\\r").replace("\n", "\\n")


def _value(value: object) -> str:
    text = _one_line(str(value))
    if text and not any(letter in text for letter in ' "='):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
