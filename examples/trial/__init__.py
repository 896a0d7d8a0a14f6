"""The code behind does_it_help.py: attention against placebos. It shares parts of the detector's package."""

import sys
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parents[1]
sys.path.append(str(EXAMPLES / "deepfake"))

from deepfake.common.interrupt import leave_while_importing  # noqa: E402
from deepfake.common.packages import end_without_packages  # noqa: E402

leave_while_importing(EXAMPLES)
end_without_packages(EXAMPLES)
