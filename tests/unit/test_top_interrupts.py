"""Ctrl-c ends ``weirgate top`` wherever it comes."""

import signal
import sys

import pytest

from weirgate.shared.cli.top.run import interrupts


def test_ctrl_c_is_raised_and_noted() -> None:
    before = signal.getsignal(signal.SIGINT)
    with interrupts() as interrupted:
        assert not interrupted()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        assert interrupted()
    assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_inside_a_finalizer_is_lost_and_noted_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lost = []
    monkeypatch.setattr(sys, "unraisablehook", lambda what: lost.append(what.exc_type))

    class Last:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGINT)

    with interrupts() as interrupted:
        last = Last()
        del last
        assert lost == [KeyboardInterrupt]
        assert interrupted()
