"""A model with inserted layers can still be copied, pickled, compiled, exported, traced and checkpointed."""

import copy
import io
import pickle
import warnings

import pytest
import timm
import torch
from torch.utils.checkpoint import checkpoint

from panet_layers import EMAM, remove_attention
from tests.insertion.small_hosts import Returns, X, create, insert_alone, inserted, resnet
from tests.layers.cases import EXACT


def test_copies_have_layers_of_their_own():
    model = resnet()
    insert_alone(model, "stages", EMAM)
    twin = copy.deepcopy(model)
    file = io.BytesIO(pickle.dumps(model))
    stored = pickle.load(file)
    assert torch.equal(twin(X), model(X)) and torch.equal(stored(X), model(X))
    with torch.no_grad():
        for key, p in twin.named_parameters():
            if "inserted_attention" in key:
                p.add_(1.0)
    assert not torch.equal(twin(X), model(X)) and torch.equal(stored(X), model(X))
    remove_attention(twin)
    assert inserted(model) and not inserted(twin)


def hiera():
    """A network whose tokens are not in row-major order, with layers."""
    torch.manual_seed(0)
    model = timm.create_model("hiera_tiny_224", img_size=64, num_classes=2, embed_dim=16, stages=(1, 1, 1, 1)).eval()
    insert_alone(model, "stages", EMAM, example_input=torch.zeros(2, 3, 64, 64))
    return model


def rebuilt(model, state):
    model.to("meta").to_empty(device="cpu").load_state_dict(state)


def assigned(model, state):
    model.to("meta").load_state_dict(state, assign=True)


@torch.no_grad()
def overwritten(model, state):
    """As by tools that build a model in memory of any content, and then fill in what the checkpoint has."""
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.fill_(7)
    model.load_state_dict(state)


@pytest.mark.parametrize("change", [rebuilt, assigned, overwritten])
def test_a_state_dict_is_all_that_a_rebuilt_token_model_needs(change):
    model = hiera()
    x = torch.randn(2, 3, 64, 64)
    expected, state = model(x), copy.deepcopy(model.state_dict())
    change(model, state)
    assert torch.equal(model(x), expected)


def test_no_buffer_is_missing_in_a_state_dict():
    assert {name for name, _ in hiera().named_buffers()} <= set(hiera().state_dict())


def test_the_order_of_tokens_moves_with_them():
    model = hiera()
    refinement = model.blocks[0].inserted_attention[0]
    refinement.order, refinement.position = refinement.order.to("meta"), refinement.position.to("meta")
    with torch.inference_mode():
        model(torch.zeros(2, 3, 64, 64))
    assert refinement.order.device.type == "cpu"
    model.train()(torch.randn(2, 3, 64, 64)).sum().backward()  # an index made in inference mode could not be kept


@pytest.mark.parametrize(
    "move",
    [
        lambda model: model.to("meta"),
        lambda model: model.to("meta").to_empty(device="cpu"),
        lambda model: model.half(),
        lambda model: model.share_memory(),
    ],
    ids=["to", "to_empty", "half", "share_memory"],
)
def test_the_order_of_tokens_moves_with_the_model(move):
    model = hiera()
    refinement = model.blocks[0].inserted_attention[0]
    order, position = refinement.order, refinement.position
    device = next(move(model).parameters()).device
    for now, before in ((refinement.order, order), (refinement.position, position)):
        assert now.device == device and (now.is_meta or torch.equal(now, before))


@pytest.mark.parametrize(
    "converted",
    [torch.jit.trace, lambda model, x: torch.compile(model, backend="aot_eager", fullgraph=True)],
    ids=["trace", "compile"],
)
def test_the_first_call_after_a_move_may_be_traced(converted):
    model = hiera()
    state, x = copy.deepcopy(model.state_dict()), torch.randn(2, 3, 64, 64)
    expected = model(x)
    model.to("meta")(x.to("meta"))
    model.to_empty(device="cpu").load_state_dict(state)
    torch._dynamo.reset()
    torch.testing.assert_close(converted(model, x)(x), expected)


@pytest.mark.parametrize("prefix", [0, 1])
def test_tokens_are_exported_at_old_opsets(prefix, tmp_path):
    pytest.importorskip("onnx", reason="ONNX needs the packages of the extra `export`")
    onnxruntime = pytest.importorskip("onnxruntime", reason="ONNX needs the packages of the extra `export`")
    model = Returns(lambda x: torch.cat([x.flatten(2)[:, :, :prefix], x.flatten(2)], 2).transpose(1, 2)).eval()
    insert_alone(model, "stage", EMAM, example_input=X)
    path = str(tmp_path / "model.onnx")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # this exporter is deprecated
        torch.onnx.export(model, (X,), path, dynamo=False, opset_version=11, input_names=["x"])
    (out,) = onnxruntime.InferenceSession(path).run(None, {"x": X.numpy()})
    torch.testing.assert_close(torch.from_numpy(out), model(X).detach(), rtol=1e-4, atol=1e-5)


def test_state_dict_round_trip():
    model, other = resnet(), resnet()
    insert_alone(model, "stages", EMAM)
    insert_alone(other, "stages", EMAM)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(X), model(X))


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_mambaout"])
def test_compiles_without_a_graph_break(name):
    torch._dynamo.reset()
    model = create(name, num_classes=3)
    insert_alone(model, "stages", EMAM)
    x = torch.randn(2, 3, 160, 160)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), model(x))


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_exports(name):
    model = create(name, num_classes=3)
    insert_alone(model, "stages", EMAM)
    x = torch.randn(2, 3, 160, 160)  # timm's ViT needs the `max` with torch 2.6
    program = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim("batch", max=64)},))
    x = torch.randn(5, 3, 160, 160)
    torch.testing.assert_close(program.module()(x), model(x))


def test_gradient_checkpointing_runs_the_layers():
    model = resnet().double().train()
    insert_alone(model, "stages", EMAM)
    x = X.double()
    model(x).sum().backward()
    expected = {k: p.grad.clone() for k, p in model.named_parameters()}
    model.zero_grad()
    model.set_grad_checkpointing()
    model(x).sum().backward()
    for key, p in model.named_parameters():
        assert (p.grad - expected[key]).abs().max() < EXACT, key
    model.zero_grad()
    checkpoint(model.layer1, model.maxpool(model.act1(model.bn1(model.conv1(x)))), use_reentrant=False).sum().backward()
    assert model.layer1[-1].inserted_attention[0].layer.conv1x1.weight.grad is not None


def test_symbolic_tracing_calls_refinements():
    model = Returns(lambda x: x.flatten(2).mT)
    insert_alone(model, "stage", EMAM, example_input=X)
    graph = torch.fx.symbolic_trace(model)
    assert torch.equal(graph(X), model(X))
