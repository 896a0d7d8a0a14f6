"""The detectors in use: shapes, locations of attention, bad input, training steps, PyTorch's own tools."""

import copy
import pickle
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from panet_layers import EMAM, SCAM
from panet_layers.models import PANet, PANetLoss, PANetOutput
from panet_layers.models.panet import LOCATIONS


def images(batch=2, height=64, width=64, seed=0, **options):
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(batch, 3, height, width, generator=generator) * 2 - 1).to(**options)


def train_step(model, batch):
    labels = torch.arange(len(batch)) % 2
    output = model.train()(batch)
    losses = PANetLoss()(output, batch, labels)
    losses.total.backward()
    return output, losses


@pytest.fixture(scope="module")
def paper():
    torch.manual_seed(0)
    return PANet()


@pytest.fixture
def tiny():
    torch.manual_seed(0)
    return PANet(variant="tiny")


# --- shapes ----------------------------------------------------------------------------------------------------------

TINY = PANet(variant="tiny").eval()


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 3), st.integers(64, 99), st.integers(64, 99))
def test_any_size_from_64_up(batch, height, width):
    batch_of_images = images(batch, height, width)
    with torch.no_grad():
        output = TINY(batch_of_images)
        attention = TINY.attention_map(batch_of_images, output.reconstruction)
    assert isinstance(output, PANetOutput)
    assert output.logits.shape == (batch, 1)
    assert output.reconstruction.shape == batch_of_images.shape and output.reconstruction.abs().max() <= 1
    assert [embedding.shape for embedding in output.embeddings] == [(batch, 96), (batch, 48), (batch, 32)]
    for embedding in output.embeddings:
        torch.testing.assert_close(embedding.norm(dim=1), torch.ones(batch))
    assert attention.shape == (batch, 1, *TINY.encoder.common_size(height, width))
    assert attention.min() >= 0 and attention.max() <= 1


def test_paper_variant(paper):
    with torch.no_grad():
        output = paper.eval()(images(1, 65, 80))
    assert output.logits.shape == (1, 1) and output.reconstruction.shape == (1, 3, 65, 80)
    assert [embedding.shape[1] for embedding in output.embeddings] == [728, 256, 128]


@pytest.mark.slow
def test_paper_variant_at_299x299(paper):
    shapes = {}
    modules = {"common": paper.emam, "x2": paper.decoder.block1, "x4": paper.decoder.block2, "final": paper.scam}
    hooks = [
        module.register_forward_hook(lambda m, i, out, name=name: shapes.update({name: tuple(out.shape[1:])}))
        for name, module in modules.items()
    ]
    _, losses = train_step(paper, images(2, 299, 299))
    for hook in hooks:
        hook.remove()
    assert shapes == {"common": (728, 19, 19), "x2": (256, 38, 38), "x4": (128, 76, 76), "final": (2048, 10, 10)}
    assert losses.total.isfinite()
    paper.zero_grad()


def test_attention_map_is_the_one_inside_the_network(tiny):
    seen = []
    tiny.eval().guided_attention.gate.register_forward_hook(lambda module, inputs, output: seen.append(output))
    batch = images(2, 77, 90)
    with torch.no_grad():
        output = tiny(batch)
        torch.testing.assert_close(tiny.attention_map(batch, output.reconstruction), seen[0])


# --- locations of attention ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("emam", [*LOCATIONS, None])
@pytest.mark.parametrize("scam", [*LOCATIONS, None])
def test_every_location(emam, scam):
    model = PANet(variant="tiny", emam=emam, scam=scam)
    calls = []
    for layer, kind in ((model.emam, EMAM), (model.scam, SCAM)):
        if layer is not None:
            assert isinstance(layer, kind)
            layer.register_forward_hook(lambda module, inputs, output: calls.append((type(module), output.shape[1:])))
    with torch.no_grad():
        assert model.eval()(images()).logits.isfinite().all()
    shape = dict.fromkeys(LOCATIONS, (96, 4, 4)) | {"final": (192, 2, 2), None: None}
    wanted = [(EMAM, shape[emam], emam), (SCAM, shape[scam], scam)]
    wanted = sorted((w for w in wanted if w[2] is not None), key=lambda w: LOCATIONS.index(w[2]))
    assert calls == [(kind, torch.Size(size)) for kind, size, _ in wanted]


def test_defaults_are_emam_on_the_common_features_and_scam_on_the_last(paper):
    assert (paper.config["emam"], paper.config["scam"]) == ("common", "final")
    assert paper.emam.conv1x1.weight.shape == (91, 91, 1, 1)


def test_recce_has_no_attention_layers():
    model = PANet(variant="tiny", emam=None, scam=None)
    assert not any(isinstance(module, (EMAM, SCAM)) for module in model.modules())


def test_baseline_is_a_plain_classifier():
    model = PANet.xception_baseline(num_classes=2, variant="tiny")
    output, losses = train_step(model, images(4))
    assert output.logits.shape == (4, 2) and output.reconstruction is None and output.embeddings == ()
    assert losses.reconstruction == losses.metric == 0
    assert all(parameter.grad is not None for parameter in model.parameters())


# --- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("build", [PANet, PANet.xception_baseline])
@pytest.mark.parametrize(
    ("batch", "error", "message"),
    [
        (images(1, 63, 70), ValueError, "at least 64x64, got 63x70"),
        (images(1, 70, 63), ValueError, "at least 64x64, got 70x63"),
        (images(1)[0], ValueError, r"must be \(B, 3, H, W\), got \(3, 64, 64\)"),
        (images(1)[:, :1], ValueError, r"must be \(B, 3, H, W\), got \(1, 1, 64, 64\)"),
        (None, TypeError, "must be a tensor of shape .* got a NoneType"),
        (images(1).to(torch.uint8), TypeError, "floating-point in .-1, 1., got torch.uint8"),
    ],
)
def test_images_that_do_not_fit_are_refused(build, batch, error, message):
    with pytest.raises(error, match=message):
        build(variant="tiny")(batch)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": 0}, "num_classes must be a positive int, got 0"),
        ({"num_classes": 1.0}, "num_classes must be a positive int, got 1.0"),
        ({"variant": "big"}, r"variant must be one of \('paper', 'tiny'\), got 'big'"),
        ({"emam": "middle"}, r"emam must be one of \('common', .*\) or None, got 'middle'"),
        ({"scam": True}, r"scam must be one of \('common', .*\) or None, got True"),
        ({"groups": 5}, "groups=5 does not divide the 96 channels at emam='common'; choose a divisor, such as 4$"),
        ({"groups": 0}, "groups must be a positive int, got 0"),
        ({"reduction": -1}, "reduction must be a positive int, got -1"),
        ({"drop_rate": 1.0}, "drop_rate must be .* at least 0 and below 1, got 1.0"),
        ({"noise_std": -1e-6}, "noise_std must be .* at least 0, got -1e-06"),
        ({"encoder_pretrained": True}, "encoder_pretrained=True needs variant='paper', got variant='tiny'"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        PANet(**{"variant": "tiny", **options})


def test_baseline_arguments_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="variant must be one of"):
        PANet.xception_baseline(variant="big")
    with pytest.raises(ValueError, match="drop_rate must be"):
        PANet.xception_baseline(variant="tiny", drop_rate=-1)


# --- training --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("build", [PANet, PANet.xception_baseline])
def test_one_image_trains_and_evaluates(build):
    model = build(variant="tiny")
    _, losses = train_step(model, images(1))
    assert losses.total.isfinite()
    assert model.eval()(images(1)).logits.isfinite().all()


def test_one_image_trains_the_paper_variant(paper):
    _, losses = train_step(paper, images(1))
    assert losses.total.isfinite()
    paper.zero_grad()


def test_every_parameter_of_the_paper_variant_gets_a_gradient(paper):
    """DistributedDataParallel waits for every gradient."""
    train_step(paper, images(4))
    assert [name for name, parameter in paper.named_parameters() if parameter.grad is None] == []
    paper.zero_grad()


@pytest.mark.parametrize("labels", [[0, 1, 0, 1], [1, 1, 1, 1], [0, 0, 0, 0]])
@pytest.mark.parametrize(("emam", "scam"), [("common", "final"), ("final", "common"), (None, None)])
def test_every_parameter_gets_a_gradient(emam, scam, labels):
    model = PANet(variant="tiny", emam=emam, scam=scam).train()
    batch = images(4)
    losses = PANetLoss(flood=0.04, clip_metric=True)(model(batch), batch, torch.tensor(labels))
    losses.total.backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_training_fits_a_batch(tiny):
    torch.manual_seed(0)
    batch, labels = images(8), torch.arange(8) % 2
    optimizer = torch.optim.Adam(tiny.train().parameters(), 2e-3)
    history = []
    for _ in range(15):
        losses = PANetLoss()(tiny(batch), batch, labels)
        optimizer.zero_grad()
        losses.total.backward()
        optimizer.step()
        history.append([value.item() for value in losses])
    first, last = history[0], history[-1]
    assert last[1] < 0.3 * first[1] and last[2] < first[2] and last[3] < first[3]


def test_noise_is_added_only_in_training():
    torch.manual_seed(0)
    model = PANet(variant="tiny", noise_std=0.2, drop_rate=0.0)
    seen = []
    model.encoder.conv1.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    batch = images(32)
    model.train()(batch)
    model.eval()(batch)
    noisy = (seen[0] != batch).flatten(1).any(1)
    assert 4 < noisy.sum() < 28 and seen[0].abs().max() <= 1
    assert torch.equal(seen[1], batch)


def test_a_seed_fixes_the_training_step(tiny):
    states = []
    for _ in range(2):
        model = copy.deepcopy(tiny)
        torch.manual_seed(7)
        train_step(model, images(4))
        states.append([parameter.grad for parameter in model.parameters()])
    torch.testing.assert_close(*states, rtol=0, atol=0)


# --- PyTorch's own tools ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("build", [PANet, PANet.xception_baseline])
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_deepcopy_and_pickle(build, duplicate):
    model = build(variant="tiny", drop_rate=0.1).eval()
    again = duplicate(model)
    assert again.config == model.config
    torch.testing.assert_close(again(images()), model(images()), rtol=0, atol=0)


def test_state_dict_round_trip(tiny):
    other = PANet(variant="tiny")
    other.load_state_dict(tiny.state_dict())
    torch.testing.assert_close(other.eval()(images()), tiny.eval()(images()), rtol=0, atol=0)


@pytest.mark.slow
def test_compiles_as_one_graph(tiny):
    compiled = torch.compile(tiny.eval(), fullgraph=True, backend="aot_eager")
    batch = images(2)
    with torch.no_grad():
        torch.testing.assert_close(compiled(batch), tiny(batch), rtol=1e-4, atol=1e-5)
    torch._dynamo.reset()


@pytest.mark.slow
def test_compiled_training_step_has_the_gradients_of_the_eager_one():
    eager = PANet(variant="tiny", noise_std=0.0, drop_rate=0.0)
    traced = copy.deepcopy(eager)
    batch, labels = images(2), torch.tensor([0, 1])
    for model, forward in ((eager, eager), (traced, torch.compile(traced, fullgraph=True, backend="aot_eager"))):
        PANetLoss()(forward(batch), batch, labels).total.backward()
        assert model.training
    gradients = [{name: p.grad for name, p in model.named_parameters()} for model in (traced, eager)]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)
    torch._dynamo.reset()


def test_channels_last(tiny):
    batch = images(2)
    wanted = tiny.eval()(batch)
    output = tiny.to(memory_format=torch.channels_last)(batch.to(memory_format=torch.channels_last))
    torch.testing.assert_close(output, wanted, rtol=1e-4, atol=1e-4)
    assert output.reconstruction.is_contiguous(memory_format=torch.channels_last)


def test_bfloat16_autocast(tiny):
    tiny.noise_std = 0.0
    batch, labels = images(4), torch.tensor([0, 1, 0, 1])
    wanted = tiny.eval()(batch)
    with torch.autocast("cpu", torch.bfloat16):
        output = tiny(batch)
        losses = PANetLoss()(output, batch, labels)
    losses.total.backward()
    assert all(embedding.dtype == torch.float32 for embedding in output.embeddings)
    assert losses.total.dtype == torch.float32
    assert all(parameter.grad.isfinite().all() for parameter in tiny.parameters())
    torch.testing.assert_close(output.reconstruction.float(), wanted.reconstruction, rtol=0.1, atol=0.1)


def test_float64(tiny):
    output = tiny.double().eval()(images(dtype=torch.float64))
    assert {tensor.dtype for tensor in (output.logits, output.reconstruction, *output.embeddings)} == {torch.float64}


def test_tiny_is_small(tiny):
    assert sum(parameter.numel() for parameter in tiny.parameters()) < 500_000


def test_layers_do_not_import_the_models_dependencies():
    code = "import panet_layers, sys; assert not {'timm', 'panet_layers.models'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
