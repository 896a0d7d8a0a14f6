"""The code behind the commands of examples/deepfake: one package per purpose."""

from pathlib import Path

from .common.interrupt import leave_while_importing

leave_while_importing(Path(__file__).resolve().parents[1])
