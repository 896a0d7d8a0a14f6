"""The code behind the commands of examples/deepfake: one package per purpose."""

from pathlib import Path

from .common.interrupt import leave_while_importing
from .common.packages import end_without_packages

COMMANDS = Path(__file__).resolve().parents[1]
leave_while_importing(COMMANDS)
end_without_packages(COMMANDS)
