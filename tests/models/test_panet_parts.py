"""The parts of PANet compute their formulas, which are written here in plain loops in float64."""

import pytest
import timm
import torch
import torch.nn.functional as F
from einops import rearrange
from torch.nn.utils import prune

from panet_layers.models.encoder import VARIANTS, XceptionEncoder, build_encoder
from panet_layers.models.graph_reasoning import GraphReasoning, NeighbourAggregation
from panet_layers.models.guided_attention import GuidedAttention
from panet_layers.models.reconstruction import Doubling, ReconstructionDecoder, add_white_noise


def randomise_batch_norm(module):
    """The module with random statistics and affine parameters, so that a forgotten one changes the result."""
    for norm in module.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            for values in (norm.weight.data, norm.running_var):
                values.uniform_(0.5, 1.5)
            for values in (norm.bias.data, norm.running_mean):
                values.uniform_(-0.5, 0.5)
    return module


def batch_norm(x, norm):
    def shaped(values):
        return values[:, None, None]

    return (x - shaped(norm.running_mean)) / torch.sqrt(shaped(norm.running_var) + norm.eps) * shaped(
        norm.weight
    ) + shaped(norm.bias)


def conv1x1(x, weight):
    return torch.einsum("bchw,oc->bohw", x, weight[:, :, 0, 0])


def resize_matrix(n_in, n_out):
    """Linear interpolation with aligned corners: n_in samples -> n_out."""
    matrix = torch.zeros(n_out, n_in, dtype=torch.float64)
    for i in range(n_out):
        position = i * (n_in - 1) / max(n_out - 1, 1)
        low = min(int(position), n_in - 1)
        matrix[i, low] += 1 - (position - low)
        if position > low:
            matrix[i, low + 1] += position - low
    return matrix


def resize(x, size):
    return resize_matrix(x.shape[2], size[0]) @ x @ resize_matrix(x.shape[3], size[1]).T


# --- graph reasoning -------------------------------------------------------------------------------------------------


def aggregate_loop(part, vertex_map, embedded, neighbours):
    """One vertex after another, as RECCE describes it."""
    ratio = part.ratio
    out = torch.empty_like(embedded)
    for b, y, x in torch.cartesian_prod(*(torch.arange(n) for n in (len(embedded), *embedded.shape[2:]))).tolist():
        vertex = embedded[b, :, y, x]
        patch = neighbours[b, :, y * ratio : (y + 1) * ratio, x * ratio : (x + 1) * ratio].flatten(1).T
        vectors = [part.project.weight @ (part.expand.weight @ vector).relu() for vector in patch]
        scores = torch.stack([(part.score.weight @ torch.cat([vertex, vector])).relu() for vector in vectors])
        weights = scores[:, 0].exp() / scores[:, 0].exp().sum()
        gate = torch.sigmoid(part.gate.weight[:, :, 0, 0] @ vertex_map[b, :, y, x])
        out[b, :, y, x] = (1 - gate) * sum(w * v for w, v in zip(weights, vectors, strict=True))
    return out


def graph_loop(module, vertices, features_x2, features_x4):
    embedded = conv1x1(conv1x1(vertices, module.embed_vertices[0].weight).relu(), module.embed_vertices[2].weight)
    messages = [
        aggregate_loop(module.aggregate_x2, vertices, embedded, features_x2),
        aggregate_loop(module.aggregate_x4, vertices, embedded, features_x4),
    ]
    joined = torch.sigmoid(torch.cat([*messages, embedded], dim=1))
    return conv1x1(conv1x1(joined, module.project[0].weight).relu(), module.project[2].weight)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("size", [(1, 1, 1), (2, 3, 2), (1, 1, 4)])
def test_graph_reasoning_is_the_loop_over_vertices(size, channels_last):
    torch.manual_seed(0)
    batch, h, w = size
    module = GraphReasoning(6, 5, 4, hidden=7).double().eval()
    shapes = [(batch, 6, h, w), (batch, 5, 2 * h, 2 * w), (batch, 4, 4 * h, 4 * w)]
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    inputs = [torch.randn(s, dtype=torch.float64).to(memory_format=memory_format).requires_grad_() for s in shapes]
    tensors = [*inputs, *module.parameters()]
    fast, slow = module(*inputs), graph_loop(module, *inputs)
    cotangent = torch.randn_like(slow)
    torch.testing.assert_close(fast, slow, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        torch.autograd.grad(fast, tensors, cotangent),
        torch.autograd.grad(slow, tensors, cotangent),
        rtol=1e-10,
        atol=1e-12,
    )


CHANGES = {
    "hook": lambda part: part.register_forward_hook(lambda module, args, out: 1.5 * out + 0.25),
    "bias": lambda part: setattr(part, "bias", torch.nn.Parameter(torch.ones(len(part.weight)).double())),
    "pruned": lambda part: prune.l1_unstructured(part, "weight", 0.5),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("part", ["score", "project"])
def test_graph_reasoning_calls_a_layer_that_is_not_as_it_was_made(part, change):
    """Against the formulas of the module's docstring, each neighbour embedded by itself."""
    torch.manual_seed(0)
    module = NeighbourAggregation(6, 5, 7, ratio=2).double()
    CHANGES[change](getattr(module, part))
    vertices, neighbours = torch.randn(2, 6, 2, 3).double(), torch.randn(2, 5, 4, 6).double()
    embedded = torch.randn(2, 7, 2, 3).double()
    patches = rearrange(neighbours, "b n (h i) (w j) -> b h w (i j) n", i=2, j=2)
    vectors = module.project(module.expand(patches).relu())
    vertex = rearrange(embedded, "b d h w -> b h w 1 d").expand(-1, -1, -1, 4, -1)
    weights = module.score(torch.cat([vertex, vectors], dim=-1)).relu().softmax(dim=3)
    message = rearrange((weights * vectors).sum(3), "b h w d -> b d h w")
    expected = (1 - module.gate(vertices).sigmoid()) * message
    torch.testing.assert_close(module(vertices, embedded, neighbours), expected, rtol=1e-12, atol=1e-12)


def test_graph_reasoning_gradcheck():
    torch.manual_seed(0)
    module = GraphReasoning(3, 3, 2, hidden=2, drop_rate=0.0).double()
    inputs = [torch.randn(1, c, s, s, dtype=torch.float64, requires_grad=True) for c, s in ((3, 2), (3, 4), (2, 8))]
    assert torch.autograd.gradcheck(module, inputs)


def test_graph_reasoning_uses_only_a_vertexs_own_neighbours():
    module = GraphReasoning(3, 3, 2, hidden=4).double().eval()
    vertices, x2 = torch.randn(1, 3, 2, 2, dtype=torch.float64), torch.randn(1, 3, 4, 4, dtype=torch.float64)
    x4 = torch.randn(1, 2, 8, 8, dtype=torch.float64)
    changed = x4.clone()
    changed[..., :4, 4:] += 1
    difference = (module(vertices, x2, changed) - module(vertices, x2, x4)).abs().sum((0, 1))
    assert difference[0, 1] > 0
    assert difference.flatten()[[0, 2, 3]].max() == 0


# --- reconstruction --------------------------------------------------------------------------------------------------


def separable(x, module):
    return conv1x1(F.conv2d(x, module.conv1.weight, padding=1, groups=x.shape[1]), module.pointwise.weight)


def doubled(x, up):
    x = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
    return batch_norm(separable(x, up[1]), up[2]).relu()


def block(x, module):
    out = x
    for position in (1, 4, 7):
        out = batch_norm(separable(out.relu(), module.rep[position]), module.rep[position + 1])
    return out + x


@pytest.mark.parametrize("size", [(16, 16), (23, 17), (31, 9)])
def test_decoder(size):
    torch.manual_seed(0)
    decoder = randomise_batch_norm(ReconstructionDecoder(5, (4, 3, 6))).double().eval()
    common = torch.randn(2, 5, 2, 2, dtype=torch.float64)
    x2 = block(doubled(common, decoder.up1), decoder.block1)
    x4 = block(doubled(x2, decoder.up2), decoder.block2)
    image = torch.tanh(conv1x1(doubled(x4, decoder.up3), decoder.to_rgb.weight))
    torch.testing.assert_close(decoder(common, size), (resize(image, size), x2, x4), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (5, 1)])
def test_doubling_is_its_parts_one_after_the_other(size, channels_last):
    torch.manual_seed(0)
    module = randomise_batch_norm(Doubling(5, 4)).double().train(size != (1, 1))
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    x = torch.randn(2, 5, *size, dtype=torch.float64).to(memory_format=memory_format).requires_grad_()
    tensors = [x, *module.parameters()]
    fast, slow = module(x), torch.nn.Sequential(*module)(x)
    cotangent = torch.randn_like(slow)
    torch.testing.assert_close(fast, slow, rtol=1e-12, atol=1e-12)
    gradients = (torch.autograd.grad(out, tensors, cotangent) for out in (fast, slow))
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-12)


UP_CHANGES = {name: lambda up, change=change: change(up[1].conv1) for name, change in CHANGES.items()} | {
    "hook on the pair": lambda up: CHANGES["hook"](up[1]),
    "hook on the upsampling": lambda up: CHANGES["hook"](up[0]),
    "another upsampling": lambda up: setattr(up, "0", torch.nn.UpsamplingBilinear2d(scale_factor=2)),
}


@pytest.mark.parametrize("change", UP_CHANGES)
def test_doubling_calls_a_part_that_is_not_as_it_was_made(change):
    torch.manual_seed(0)
    module = Doubling(5, 4).double().eval()
    x = torch.randn(2, 5, 3, 2, dtype=torch.float64)
    before = module(x)
    UP_CHANGES[change](module)
    assert not torch.allclose(module(x), before)
    assert torch.equal(module(x), torch.nn.Sequential(*module)(x))


def test_noise_of_the_given_std_is_on_about_half_of_the_images():
    torch.manual_seed(0)
    images = torch.zeros(400, 3, 8, 8)
    noise = add_white_noise(images, 0.01)
    touched = noise.flatten(1).abs().amax(1) > 0
    assert 150 < touched.sum() < 250
    assert noise[touched].std() == pytest.approx(0.01, rel=0.02)


def test_noise_stays_in_range():
    noisy = add_white_noise(torch.ones(64, 3, 8, 8), 0.5)
    assert noisy.max() == 1 and noisy.min() < 0.9


# --- guided attention ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(4, 4), (3, 5), (1, 1)])
def test_guided_attention(size):
    torch.manual_seed(0)
    module = randomise_batch_norm(GuidedAttention(5)).double().eval()
    features = torch.randn(2, 5, *size, dtype=torch.float64)
    images, reconstruction = torch.rand(2, 2, 3, 20, 17, dtype=torch.float64) * 2 - 1
    error = resize((images - reconstruction).abs(), size)
    attention = torch.sigmoid(conv1x1(F.conv2d(error, module.gate[0].weight, padding=1).relu(), module.gate[2].weight))
    torch.testing.assert_close(module.attention_map(images, reconstruction, size), attention)
    transformed = batch_norm(conv1x1(features, module.transform[0].weight), module.transform[1]).relu()
    torch.testing.assert_close(module(features, images, reconstruction), attention * transformed + features)


# --- encoder ---------------------------------------------------------------------------------------------------------


def test_paper_encoder_is_timms_legacy_xception():
    reference = randomise_batch_norm(timm.create_model("legacy_xception", num_classes=0)).eval()
    encoder = XceptionEncoder().eval()
    encoder.load_state_dict(reference.state_dict())
    images = torch.rand(1, 3, 64, 71) * 2 - 1
    with torch.no_grad():
        torch.testing.assert_close(encoder(images), reference.forward_features(images))


def test_pretrained_encoder_loads_timms_weights(monkeypatch):
    source = timm.create_model("legacy_xception", num_classes=0)
    asked = {}

    def create_model(name, **options):
        asked.update(options, name=name)
        return source

    monkeypatch.setattr(timm, "create_model", create_model)
    encoder = build_encoder("paper", pretrained=True)
    assert asked == {"name": "legacy_xception", "pretrained": True, "num_classes": 0}
    assert torch.equal(encoder.block12.skip.weight, source.block12.skip.weight)


def test_pretrained_encoder_without_internet_is_one_clear_error(monkeypatch):
    def create_model(name, **options):
        raise OSError("no route to host\nand a second line")

    monkeypatch.setattr(timm, "create_model", create_model)
    with pytest.raises(RuntimeError, match=r"weights of legacy_xception \(OSError: no route to host\);") as info:
        build_encoder("paper", pretrained=True)
    assert info.value.__cause__ is None and info.value.__suppress_context__


@pytest.mark.parametrize("size", [(64, 64), (65, 80), (96, 71), (299, 299), (150, 333)])
def test_common_size_is_the_size_of_the_common_features(size):
    with torch.no_grad():
        features = XceptionEncoder(VARIANTS["tiny"]).common(torch.empty(1, 3, *size))
    assert XceptionEncoder.common_size(*size) == tuple(features.shape[2:])
