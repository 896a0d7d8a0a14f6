"""A training run: new or continued from its folder, with model, optimizer and progress; writes its checkpoints."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from panet_layers.models import PANet, PANetLoss

from ..common.cli import UserError
from ..common.files import make_folder, remove_partial_files, write_json
from ..common.lock import locked
from ..common.texts import read_json
from ..dataset.images import Images
from .checkpoint import BEST, CONFIG, STATE, load_state, save_best, save_state
from .description import describe, earlier_sessions
from .distributed import Processes
from .encoder_weights import cached_file, digest_of, load_encoder
from .log import PARTS, Row
from .placing import choose_channels_last, place
from .settings import Settings

LOCK = ".lock"


@dataclass
class Progress:
    """The progress of a run. With the weights and the optimizer's state, all that is needed to resume."""

    epoch: int = 0  # epochs finished
    step: int = 0  # steps finished in the current epoch
    sums: list[float] = field(default_factory=lambda: [0.0] * len(PARTS))  # of PARTS over those steps
    seconds: float = 0.0  # spent on the current epoch
    history: list[Row] = field(default_factory=list)  # the rows of log.csv
    best: tuple[float, float] = (-1.0, 0.0)  # (val AUC, -val loss) of the best epoch; the loss breaks ties

    @classmethod
    def of(cls, saved: dict[str, Any]) -> Progress:
        """Saved progress. ValueError, or what a wrong type raises, unless it is of this form."""
        found = cls(**{item.name: saved[item.name] for item in fields(cls)})
        auc, loss = found.best
        found.best = (auc, loss)
        numbers = [*found.sums, found.seconds, auc, loss, *(value for row in found.history for value in row.values())]
        whole = all(type(count) is int and count >= 0 for count in (found.epoch, found.step))
        if not whole or len(found.sums) != len(PARTS) or not all(type(number) in (int, float) for number in numbers):
            raise ValueError("its progress has values of a wrong type")
        if len(found.history) != found.epoch:
            raise ValueError(f"{len(found.history)} epochs in the log, but {found.epoch} finished")
        if found.epoch and not found.history[0]["best"]:
            raise ValueError("no epoch in the log is the best")
        if any(row.keys() - found.history[-1].keys() for row in found.history):
            raise ValueError("the epochs in the log have other columns than the last")
        return found

    def finish_epoch(self, row: Row) -> None:
        """Add the epoch's row to the history and start counting the next."""
        self.history.append(row)
        self.epoch += 1
        self.step, self.sums, self.seconds = 0, [0.0] * len(PARTS), 0.0


@dataclass
class Run:
    """All that the training loop needs."""

    settings: Settings
    processes: Processes
    model: nn.Module  # as saved and evaluated
    parallel: nn.Module  # the same weights, wrapped for several processes
    loss: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    progress: Progress
    config: dict[str, Any]  # as in config.json

    @property
    def out(self) -> Path:
        """The run's folder."""
        return Path(self.settings.out)

    @contextmanager
    def folder(self, fresh: bool) -> Iterator[None]:
        """Lock the folder against other trainings and write the first files of the run (main process only).

        config.json comes last, so that a folder with a config.json can always be resumed.
        """
        if not self.processes.is_main:
            yield
            return
        make_folder(self.out)
        with locked(self.out / LOCK, f"{self.out}: another training is writing there"):
            for folder in (self.out, self.out / BEST):
                remove_partial_files(folder)
            if fresh:
                self.save()
            write_json(self.out / CONFIG, self.config)
            yield

    def save(self) -> None:
        """Write last.pt (main process only). UserError if a weight is NaN or infinite: then the old file is kept."""
        if not self.processes.is_main:
            return
        weights = self.model.state_dict()
        for name, tensor in weights.items():
            if not torch.isfinite(tensor).all():
                where = f"epoch {self.progress.epoch + 1}, step {self.progress.step}"
                raise UserError(f"{name} is not finite at {where}: training diverged; {self.out} keeps its checkpoint")
        state = {"model": weights, "optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict()}
        save_state(self.out / STATE, state | {"progress": asdict(self.progress)})

    def save_best(self, row: Row) -> None:
        """Write the current weights, with their epoch's row of the log, to RUN/best (main process only)."""
        if self.processes.is_main:
            val = {name.removeprefix("val_"): value for name, value in row.items() if name.startswith("val_")}
            metadata = {"epoch": row["epoch"], "val": val, "config": self.config}
            save_best(self.out, self.model, self.config["model"], metadata)


def start(settings: Settings, processes: Processes, images: Images, saved: dict[str, Any] | None) -> Run:
    """Build a new run or, given the config.json ``saved`` by one, continue that run. Writes no file."""
    torch.manual_seed(settings.seed)
    channels_last = choose_channels_last(settings.channels_last, processes.device)
    settings = replace(settings, channels_last=channels_last)  # on another device the run resumes as it began
    if saved is not None:  # what it began with, whatever is named now
        settings = replace(settings, encoder_weights=saved["arguments"].get("encoder_weights"))
    model = build_model(settings, pretrained=settings.pretrained and saved is None)
    model = place(model, processes.device, channels_last)
    config = describe(settings, processes, model, images)
    if saved is None:
        file = settings.encoder_weights
        config["encoder_weights"] = None if file is None else digest_of(Path(file))
    else:
        _check_same(saved, config)
        config |= {"encoder_weights": saved.get("encoder_weights"), "earlier": earlier_sessions(saved, config)}
    run = assemble(settings, processes, model, config, None if saved is None else Path(settings.out) / STATE)
    steps = len(images) // settings.batch_size
    if run.progress.step > steps:
        raise UserError(f"{Path(settings.out) / STATE} is after step {run.progress.step} of an epoch of {steps}")
    return run


def assemble(
    settings: Settings,
    processes: Processes,
    model: nn.Module,
    config: dict[str, Any] | None = None,
    state: Path | None = None,
) -> Run:
    """The run of a model: loss, optimizer and wrapped model as the settings say, at the beginning or from a `state`."""
    fused = processes.device.type in ("cpu", "cuda")
    optimizer = torch.optim.Adam(model.parameters(), settings.lr, weight_decay=settings.weight_decay, fused=fused)
    scaler = torch.amp.GradScaler(processes.device.type, enabled=settings.amp == "fp16")
    loss = PANetLoss(settings.lambda_reconstruction, settings.lambda_metric, flood=settings.flood or None)
    progress = Progress() if state is None else _restore(state, model, optimizer, scaler)
    return Run(settings, processes, model, processes.parallel(model), loss, optimizer, scaler, progress, config or {})


def build_model(settings: Settings, pretrained: bool) -> nn.Module:
    """The detector of the settings. UserError if ImageNet weights are wanted and cannot be read or downloaded."""
    file = settings.encoder_weights if pretrained else None
    options: dict[str, Any] = {"variant": settings.variant, "encoder_pretrained": pretrained and file is None}
    if settings.model != "xception":
        locations = {"emam": settings.emam, "scam": settings.scam}
        options |= {layer: None if location == "none" else location for layer, location in locations.items()}
    try:
        model = PANet.xception_baseline(**options) if settings.model == "xception" else PANet(**options)
    except RuntimeError as error:
        if not options["encoder_pretrained"]:
            raise
        reason = str(error).split(";")[0]
        place = cached_file()
        put = f"put the file at {place} or " if place else ""
        raise UserError(
            f"{reason}; connect to the internet, {put}name a file with --encoder-weights, or train from scratch with "
            "--no-pretrained"
        ) from error
    if file is not None:
        load_encoder(model.encoder, Path(file))
    return model


def saved_config(out: Path) -> dict[str, Any]:
    """The config.json of the run to resume. UserError if there is no run."""
    if not (out / CONFIG).is_file():
        raise UserError(f"--resume: {out} holds no run ({CONFIG} is missing)")
    saved = read_json(out / CONFIG)
    if not isinstance(saved.get("arguments"), dict) or not isinstance(saved.get("data"), dict):
        raise UserError(f"{out / CONFIG} was not written by train.py: it has no arguments or no data")
    return saved


def _check_same(saved: dict[str, Any], config: dict[str, Any]) -> None:
    """Refuse to resume with other images or another number of processes (the noise would differ)."""
    if saved["data"].get("fingerprint") != config["data"]["fingerprint"]:
        raise UserError(f"--data {config['arguments']['data']} does not hold the images of the run's beginning", 2)
    if saved.get("processes") != config["processes"]:
        wanted = f"resume with torchrun --nproc-per-node={saved.get('processes')}"
        raise UserError(f"{config['processes']} processes, but the run has {saved.get('processes')}: {wanted}", 2)


def _restore(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler) -> Progress:
    """Load a saved state. UserError where anything in it is not as ``Run.save`` writes it."""
    state = load_state(path)
    try:
        model.load_state_dict(state["model"])
        own = optimizer.state_dict()["param_groups"]  # the settings decide them: they stay the same
        optimizer.load_state_dict({"state": _checked_moments(state["optimizer"]["state"], model), "param_groups": own})
        if not all(type(value) in (int, float) for value in state["scaler"].values()):
            raise ValueError("a wrong state of the scaler")
        scaler.load_state_dict(state["scaler"])
        return Progress.of(state["progress"])
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{path} does not fit the run's {CONFIG}: {str(error).strip()[:200]}") from error


def _checked_moments(moments: dict[int, dict[str, Tensor]], model: nn.Module) -> dict[int, dict[str, Tensor]]:
    """Adam's state, which torch loads unchecked. An error, of any type, unless it fits the weights."""
    shapes = [parameter.shape for parameter in model.parameters()]
    for number, tensors in moments.items():
        found = {name: tensor.shape for name, tensor in tensors.items()}
        if number < 0 or found != {"step": torch.Size(), **dict.fromkeys(("exp_avg", "exp_avg_sq"), shapes[number])}:
            raise ValueError(f"the optimizer's state of weight {number} has another shape")
    return moments
