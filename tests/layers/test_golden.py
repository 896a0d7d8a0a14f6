"""Both backends against stored results of the published EMA and CBAM: outputs, every gradient, running statistics."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from panet_layers import EMAM, SCAM
from tests.layers.cases import BACKENDS, assert_same, poisoned_memory, run

pytestmark = pytest.mark.usefixtures("by_hand_at_any_size")

GOLDEN = sorted((Path(__file__).parent / "golden").glob("*.safetensors"))

# The published CBAM's names, and ours.
SCAM_NAMES = {
    "ChannelGate.mlp.1.": "channel.fc1.",
    "ChannelGate.mlp.3.": "channel.fc2.",
    "SpatialGate.spatial.": "spatial.",
}


def load(path):
    with safe_open(path, "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118 (no mapping)


def build(metadata, channels, backend):
    if metadata["kind"] == "emam":
        return EMAM(channels, int(metadata["groups"]), backend=backend, dtype=torch.float64)
    published = {"mlp_bias": True, "spatial_norm": "batch"}
    return SCAM(channels, int(metadata["reduction"]), **published, backend=backend, dtype=torch.float64)


def our_name(name):
    for published, ours in SCAM_NAMES.items():
        name = name.replace(published, ours)
    return name


def expected_outcome(stored):
    """The stored tensors under the names of `run`; the published CBAM's convolution sees [max, mean]."""
    expected = {"output": stored["output"], "grad x": stored["grad_x"]}
    for key, value in stored.items():
        kind, _, name = key.partition(".")
        if kind in ("grad", "after"):
            expected[f"{kind} {our_name(name)}"] = value.flip(1) if name.endswith("spatial.conv.weight") else value
    return expected


def test_there_are_golden_files_of_both_layers():
    assert [path.stem for path in GOLDEN] == ["emam_small", "emam_square", "scam_eval", "scam_train"]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_matches_the_published_module(path, backend):
    stored, metadata = load(path)
    layer = build(metadata, stored["x"].shape[1], backend)
    published = {key.removeprefix("param."): value for key, value in stored.items() if key.startswith("param.")}
    assert str(layer.load_state_dict(published)) == "<All keys matched successfully>"
    layer.train(metadata["mode"] == "train")

    with poisoned_memory():
        outcome = run(layer, stored["x"], stored["grad_output"])

    batches = outcome.pop("after spatial.bn.num_batches_tracked", None)
    if metadata["kind"] == "scam":
        assert batches == published["SpatialGate.spatial.bn.num_batches_tracked"] + layer.training
    assert_same(outcome, expected_outcome(stored))
