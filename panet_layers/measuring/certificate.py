"""What a certificate says of one case: each backend's errors, repeatability, time beside a copy, and memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from . import memory, timing
from .cases import BUILDERS, DTYPES, PASSES, Case, draw_gradient, draw_input, drawn
from .draws import SEED
from .gate import Gate, Results, Verdict
from .steps import Step, copy, inference, training

REFERENCE, COPY = "reference", "copy"
REPEATABLE = ("native", "triton", "cuda")  # the kernels of this package; the others run torch's, which promise less
REPETITIONS = 5


def examine(case: Case, backends: Sequence[str], rounds: int) -> list[dict[str, Any]]:
    """Return a result for each backend, the reference first; `fault` is "" where all bounds hold."""
    results = [_empty(case, name) for name in backends]
    for pass_ in PASSES:
        gate = Gate[str](partial(_run, case, pass_))
        for result in results:
            _try(result, partial(_judge, case, pass_, gate, result))
        timed = [result for result in results if not result["fault"]]
        try:
            _time(case, pass_, timed, rounds)
        except Exception as error:  # such as memory that several steps at once do not have
            for result in timed:
                result["fault"] = _failure(error)
    return results


def prepare(case: Case, backend: str, pass_: str, dtype: torch.dtype | None = None, seed: int = SEED) -> Step:
    """Return the step of a backend; all backends get the same numbers, in `dtype` instead of the case's if given."""
    build = partial(BUILDERS[case.layer], backend, case)
    module = drawn(build, build, case, dtype or DTYPES[case.dtype]).train(pass_ == "training")
    x = draw_input(case, dtype, seed)
    return inference(module, x) if pass_ == "forward" else training(module, x, draw_gradient(case, dtype, seed))


def _empty(case: Case, backend: str) -> dict[str, Any]:
    shape = "x".join(map(str, case.shape))
    return case._asdict() | {"shape": shape, "backend": backend, "fault": "", "repeatable": None}


def _try(result: dict[str, Any], measure: Callable[[], None]) -> None:
    """Measure; where that fails, note why: the other backends are still examined."""
    if result["fault"]:
        return
    try:
        measure()
    except Exception as error:  # compilers raise classes of their own
        result["fault"] = _failure(error)


def first_line(error: Exception) -> str:
    """Return the first line of what an exception says, or its class where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _failure(error: Exception) -> str:
    return f"failed, {type(error).__name__}: {first_line(error)}"


def _judge(case: Case, pass_: str, gate: Gate[str], result: dict[str, Any]) -> None:
    """Add errors, repeatability and memory of one pass."""
    backend, dtype = result["backend"], DTYPES[case.dtype]
    verdict = gate.judge(backend, REFERENCE, dtype)
    units = _units(verdict)
    of_tensors = {name: _rounded(unit) for name, unit in units.items()}
    result[pass_] = {"units": _rounded(max(units.values())), "units_of": of_tensors}
    result[pass_] |= {"of_bound": _rounded(_of_bound(verdict)), "relative_error": _rounded(verdict.error)}
    result["fault"] = verdict.fault
    step = prepare(case, backend, pass_)
    if pass_ == "training":
        result["repeatable"] = _repeatable(step)
        if not result["repeatable"] and backend in REPEATABLE:
            result["fault"] = result["fault"] or f"{REPETITIONS} calls with the same numbers differ"
    result[pass_] |= memory.measure(step)._asdict()


def _units(verdict: Verdict) -> dict[str, float]:
    """Return each tensor's error in units of the reference's own in that precision, or of a rounding if larger."""
    units = {name: max(errors.of_formulas, errors.rounding) for name, errors in verdict.errors.items()}
    return {name: errors.own / units[name] if units[name] else 0.0 for name, errors in verdict.errors.items()}


def _of_bound(verdict: Verdict) -> float:
    """Return the largest share of its bound that an error takes."""
    return max((errors.own / errors.bound for errors in verdict.errors.values() if errors.bound), default=0.0)


def _rounded(value: float) -> float | None:
    """Return the first four digits; None where the value is infinite, for which JSON has no number."""
    return float(f"{value:.4g}") if math.isfinite(value) else None


def _repeatable(step: Step) -> bool:
    first, *others = (step.results() for _ in range(REPETITIONS))
    return all(torch.equal(first[name], other[name]) for other in others for name in first)


def _time(case: Case, pass_: str, results: list[dict[str, Any]], rounds: int) -> None:
    """Add the time of each backend and its ratio to the time of copying the map, of rounds side by side."""
    steps = {COPY: copy(draw_input(case), draw_gradient(case), pass_)}
    steps |= {result["backend"]: prepare(case, result["backend"], pass_) for result in results}
    times = timing.measure(steps, rounds, timing.EventSampler() if case.device == "cuda" else None)
    for result in results:
        time = times[result["backend"]]
        result[pass_] |= {"milliseconds": _rounded(time.milliseconds), "times_copy": _rounded(1 / time.speedup)}


def _run(case: Case, pass_: str, backend: str, dtype: torch.dtype, seed: int) -> Results:
    return prepare(case, backend, pass_, dtype, seed).results()
