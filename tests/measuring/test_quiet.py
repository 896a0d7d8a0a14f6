"""Tests of what the benchmark says about other processes."""

from __future__ import annotations

import os
import sys
import time
from types import SimpleNamespace

import pytest

from panet_layers.measuring import quiet

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's /proc/stat")


def test_share_of_other_processes(monkeypatch):
    """Ten seconds of two processors: 12 s busy, 4 of them this process's, so that others took 40 %."""
    counted = iter([(100.0, 5.0, 1000.0), (112.0, 9.0, 1010.0)])
    monkeypatch.setattr(quiet, "_counted", lambda: next(counted))
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    assert quiet.OtherProcesses().share() == "40%"


def test_what_is_counted(monkeypatch, tmp_path):
    """User, nice, system, interrupts and stolen time are busy; idle and waiting for a disk are not."""
    (tmp_path / "stat").write_text("cpu  100 20 30 4000 500 6 7 8 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n")
    monkeypatch.setattr(quiet, "Path", lambda _: tmp_path / "stat")
    monkeypatch.setattr(os, "sysconf", {"SC_CLK_TCK": 100}.get)
    monkeypatch.setattr(os, "times", lambda: SimpleNamespace(user=2.0, system=0.5))
    monkeypatch.setattr(time, "monotonic", lambda: 7.0)
    assert quiet._counted() == (pytest.approx(1.71), 2.5, 7.0)


def test_nothing_is_said_where_nothing_is_known(monkeypatch, tmp_path):
    monkeypatch.setattr(quiet, "Path", lambda _: tmp_path / "missing")
    assert quiet.OtherProcesses().share() == ""
