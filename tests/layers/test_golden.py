"""Every backend against stored results of the published EMA and CBAM: outputs, every gradient, running statistics."""

import pytest

from tests.layers.cases import BACKENDS, assert_same, poisoned_memory, run
from tests.layers.published import GOLDEN, build, expected_outcome, load

pytestmark = pytest.mark.usefixtures("by_hand_at_any_size")


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
    assert_same(outcome, expected_outcome(stored), tolerance=1e-12)
