"""Every tensor of DeepfakeBench's Xception maps, and XceptionBaseline computes what that network computes."""

import pytest
import torch

from panet_layers.checkpoints import xception_state_dict
from panet_layers.models import XceptionBaseline
from tests.models.by_name import RECCE_SHAPES, BenchXception, bench_xception_shapes, random_state

SHAPES = bench_xception_shapes()


@pytest.fixture(scope="module")
def state():
    return random_state(SHAPES, torch.float64)


def test_mapped_weights_compute_what_deepfakebench_computes(state):
    images = torch.rand(2, 3, 64, 80, dtype=torch.float64) * 2 - 1
    weights, unused = xception_state_dict({f"backbone.{name}": value for name, value in state.items()})
    assert unused == [name for name in SHAPES if name.startswith("adjust_channel.")] and len(unused) == 7
    assert len(weights) + len(unused) == len(SHAPES)
    model = XceptionBaseline(num_classes=2).double().eval()
    model.load_state_dict(weights, strict=True)
    with torch.no_grad():
        expected, logits = BenchXception(state)(images), model(images).logits
    assert expected.isfinite().all() and expected.std() > 1e-3
    torch.testing.assert_close(logits, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("prefix", ["", "module.backbone.", "model."])
@pytest.mark.parametrize("linear", ["last_linear.", "last_linear.1.", "fc."])
def test_prefixes_and_names_of_the_classifier(state, prefix, linear):
    renamed = {prefix + name.replace("last_linear.", linear): value for name, value in state.items()}
    weights, plain = xception_state_dict(renamed).state_dict, xception_state_dict(state).state_dict
    assert weights.keys() == plain.keys()
    assert all(torch.equal(value, plain[name]) for name, value in weights.items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"block12.rep.4.pointwise.weight": None}, r"1 missing \(block12.rep.4.pointwise.weight\)"),
        ({"surprise": torch.zeros(1)}, r"1 unknown \(surprise\)"),
        ({"adjust_channel.2.weight": torch.zeros(1)}, r"1 unknown \(adjust_channel.2.weight\)"),
        ({"last_linear.weight": torch.zeros(2, 7)}, r"last_linear.weight \(2, 7\) instead of \(2, 2048\)"),
        ({"last_linear.bias": torch.tensor(0.0)}, r"last_linear.bias \(\) instead of \(1,\)"),
        ({"conv3.pointwise.weight": torch.zeros(1536, 1024)}, r"\(1536, 1024\) instead of \(1536, 1024, 1, 1\)"),
    ],
)
def test_tensors_that_do_not_fit_are_named(state, change, message):
    changed = {name: value for name, value in {**state, **change}.items() if value is not None}
    with pytest.raises(ValueError, match=message):
        xception_state_dict(changed)


def test_a_checkpoint_of_recce_is_refused():
    recce = {f"model.{name}": torch.empty(shape, device="meta") for name, shape in RECCE_SHAPES.items()}
    backbone = {f"backbone.{name}": torch.empty(shape, device="meta") for name, shape in SHAPES.items()}
    with pytest.raises(ValueError, match=r"362 unknown \(model\.attention\.gated\.0\.weight, "):
        xception_state_dict(backbone | recce)
    with pytest.raises(ValueError, match=r"86 unknown \(model\.attention\.gated\.0\.weight, "):
        xception_state_dict(recce)
