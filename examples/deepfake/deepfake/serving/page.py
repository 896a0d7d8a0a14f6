"""The page's HTML for one run: which model it is and what it was trained on."""

from __future__ import annotations

from html import escape
from pathlib import Path
from string import Template
from typing import Any

from ..demo.options import is_demo
from ..evaluating.summary_table import model_name
from .limits import MAX_BYTES, MAX_FRAMES, MEGABYTE
from .replies import NO_PROOF

HERE = Path(__file__).parent
STYLE, SCRIPT = HERE / "page.css", HERE / "page.js"
DEMONSTRATION = (
    "This is a demonstration: the network was trained in minutes on forgeries made to be learnt fast. "
    "What it says about any picture is no result about deepfakes."
)


def html_of(run: Path, config: dict[str, Any]) -> str:
    """The page, given the run's folder and its config as `load_run` returns it."""
    on_demo = is_demo(str((config.get("arguments") or {}).get("data")))
    texts = {
        "model": model_name(config["model"]),
        "run": str(run),
        "data": trained_on(config),
        "demonstration": DEMONSTRATION if on_demo else "",
        "no_proof": NO_PROOF,
        "megabytes": str(MAX_BYTES // MEGABYTE),
        "bytes": str(MAX_BYTES),
        "frames": f"{MAX_FRAMES:,}",
    }
    template = Template((HERE / "page.html").read_text(encoding="utf-8"))
    return template.substitute({name: escape(_printable(text)) for name, text in texts.items()})


def trained_on(config: dict[str, Any]) -> str:
    """What a run was trained on, in words."""
    data = config.get("data")
    description = data.get("description") if isinstance(data, dict) else None
    return str(description) if description else "not known (a folder of save_pretrained does not say)"


def _printable(text: str) -> str:
    """A text that UTF-8 can encode: names of folders may hold other bytes."""
    return text.encode(errors="replace").decode()
