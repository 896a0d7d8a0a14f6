"""EMAM and SCAM in a model YAML of ultralytics, by the command line only, and then in every step of its own tools."""

import os
import pickle
import subprocess
import sys
import types
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from panet_layers import EMAM

ROOT = Path(__file__).parents[2]
YAML = """
nc: 1
scales:
  n: [0.50, 0.25, 1024]
  s: [0.50, 0.50, 1024]
backbone:
  - [-1, 1, Conv, [64, 3, 2]]
  - [-1, 1, Conv, [128, 3, 2]]
  - [-1, 1, EMAM, []]
  - [-1, 1, Conv, [256, 3, 2]]
  - [-1, 1, SCAM, [8]]
head:
  - [-1, 1, Conv, [256, 3, 2]]
  - [[4, 5], 1, Detect, [nc]]
"""


def run(folder, *arguments):
    """In a process of its own: importing ultralytics changes torch and the environment, and reads its settings."""
    offline = {"YOLO_CONFIG_DIR": str(folder), "YOLO_OFFLINE": "1", "YOLO_AUTOINSTALL": "0", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, **offline, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )


def needs(*packages):
    """Skip where a package is missing; none is imported, since ultralytics would change this process."""
    for package in packages:
        if find_spec(package) is None:
            pytest.skip(f"needs {package}, of the extra `clients`")


def with_data(folder):
    """Write the YAML, and the data set of ultralytics' own two pictures."""
    (folder / "yolo11-emam.yaml").write_text(YAML)
    done = run(folder, "-m", "tests.insertion.bundled_pictures", folder)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
def test_worker_processes_build_train_and_resume_a_model_of_a_yaml(tmp_path):
    needs("ultralytics", "cloudpickle")
    with_data(tmp_path)
    done = run(tmp_path, Path(__file__).with_name("check_workers.py"), tmp_path)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    assert done.stdout.splitlines()[-1] == "all checks passed"


@pytest.mark.slow
def test_the_command_line_trains_from_a_yaml_and_its_checkpoints_work_everywhere(tmp_path):
    needs("ultralytics", "openvino")
    pytest.importorskip("onnxruntime", reason="ONNX needs the packages of the extra `export`")
    with_data(tmp_path)
    done = run(
        tmp_path,
        *("-m", "panet_layers.integrations.ultralytics", "train", "model=yolo11n-emam.yaml", "data=data.yaml"),
        *("epochs=2", "imgsz=64", "batch=2", "device=cpu", "workers=0", "plots=False", "save_period=1"),
        *(f"project={tmp_path}", "name=run"),
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    assert "[32]" in done.stdout + done.stderr and "[64, 8]" in done.stdout + done.stderr  # the rows' arguments
    done = run(tmp_path, Path(__file__).with_name("check_yaml.py"), tmp_path)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    assert done.stdout.splitlines()[-1] == "all checks passed"


def test_importing_the_integration_imports_no_ultralytics():
    load = (
        "import pickle, sys, panet_layers.integrations.ultralytics as u; pickle.loads(pickle.dumps(u.Registration()))"
    )
    code = f"{load}; assert 'ultralytics' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})


def test_a_missing_package_is_named(monkeypatch):
    from panet_layers.integrations.ultralytics import register

    monkeypatch.setitem(sys.modules, "ultralytics", None)
    with pytest.raises(ImportError, match=r"ultralytics can't be imported.*pip install 'panet-layers\[clients\]'"):
        register()


def known_parser(d, ch, verbose=True):
    f = args = None
    return d, ch, f, args


@pytest.fixture
def stand_in(monkeypatch):
    """Without ultralytics: of it, only what `register` changes."""
    made = {name: types.ModuleType(f"ultralytics.{name}") for name in ("nn", "nn.tasks", "utils", "utils.dist")}
    for name, module in made.items():
        monkeypatch.setitem(sys.modules, f"ultralytics.{name}", module)
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(made[parent], child, module)
    monkeypatch.setitem(sys.modules, "ultralytics", types.ModuleType("ultralytics"))
    monkeypatch.setattr(torch.serialization, "add_safe_globals", lambda _: None)
    made["nn.tasks"].parse_model = known_parser
    return made


def test_the_program_of_worker_processes_registers_before_all_else(stand_in, tmp_path):
    from panet_layers.integrations.ultralytics import register

    program = tmp_path / "program.py"
    stand_in["utils.dist"].generate_ddp_file = lambda trainer: program.write_text(trainer) and str(program)
    register(), register()
    assert stand_in["utils.dist"].generate_ddp_file("print('trains', 'é')\n") == str(program)
    first, *_, last = program.read_text(encoding="utf-8").split("\n", 4)
    assert first == "import sys" and last == "print('trains', 'é')\n"
    code = "import panet_layers.integrations.ultralytics as u, runpy, sys; u.register = lambda: print('registered'); "
    code += f"runpy.run_path({str(program)!r}, run_name='__main__')"
    done = run(tmp_path, "-c", code)
    assert done.stdout.splitlines() == ["registered", "trains é"], done.stderr


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda made: setattr(made["nn.tasks"], "parse_model", lambda d: d), "parses a model's YAML in another way"),
        (lambda made: None, "starts worker processes in another way"),
    ],
)
def test_an_unknown_version_is_refused_before_anything_is_changed(stand_in, change, message):
    from panet_layers.integrations.ultralytics import register

    change(stand_in)
    with pytest.raises(RuntimeError, match=message):
        register()
    assert not hasattr(stand_in["nn.tasks"], "EMAM")


def test_a_layer_of_a_checkpoint_computes_the_same_without_ultralytics():
    from panet_layers.integrations.ultralytics import EMAMInYaml

    layer, x = EMAMInYaml([3, 16], -1, 2, 4), torch.randn(1, 16, 8, 8)
    assert type(layer) is EMAM and layer.groups == 4
    assert torch.equal(pickle.loads(pickle.dumps(layer))(x), layer(x))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([-1, 1, "EMAM", None], r"row 1 of the model, EMAM, takes a list of arguments, \[\] or \[groups\], got None"),
        ([-1, 1, "SCAM", 4], r"row 1 of the model, SCAM, takes a list of arguments, \[\] or \[reduction\], got 4"),
        ([-1, 1, "SCAM", {}], r"takes a list of arguments, .*, got \{\}"),
        ([1, 1, "EMAM", []], "row 1 of the model, EMAM, takes the output of a row before it, got from=1"),
        ([-2, 1, "EMAM", []], "takes the output of a row before it, got from=-2"),
    ],
)
def test_a_wrong_row_is_named(row, message):
    from panet_layers.integrations.ultralytics import _with_channels

    with pytest.raises(ValueError, match=message):
        _with_channels({"backbone": [[-1, 1, "Conv", [64, 3, 2]]], "head": [row]})


def test_a_layer_that_does_not_fit_names_its_row():
    from panet_layers.integrations.ultralytics import EMAMInYaml

    with pytest.raises(ValueError, match="row 2 of the model, EMAM: groups=7 does not divide channels=64"):
        EMAMInYaml([3, 64], -1, 2, 7)
