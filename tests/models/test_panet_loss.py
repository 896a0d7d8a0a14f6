"""PANetLoss against values computed by hand, and on batches with an empty class."""

import math

import pytest
import torch

from panet_layers.models import PANetLoss, PANetOutput

REAL_A, REAL_B, FAKE = [1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]


def example(dtype=torch.float32):
    """Two real images and a fake one. By hand:

    classification: logits 0 -> ln 2 each.
    reconstruction: absolute errors 0.5 and 0.25 on the real images (5 on the fake) -> 0.375.
    metric of an embedding: real-real (1 - 0)/2 = 0.5; real-fake (1 - -1)/2 = 1 and (1 - 0)/2 = 0.5 -> 0.75; so -0.25.
    """
    images = torch.zeros(3, 3, 4, 4, dtype=dtype)
    reconstruction = torch.tensor([0.5, -0.25, 5.0], dtype=dtype)[:, None, None, None].expand(3, 3, 4, 4).clone()
    embedding = torch.tensor([REAL_A, REAL_B, FAKE], dtype=dtype)
    output = PANetOutput(torch.zeros(3, 1, dtype=dtype), reconstruction, (embedding,) * 3)
    return output, images, torch.tensor([0, 0, 1])


def with_gradients(output):
    return PANetOutput(
        output.logits.clone().requires_grad_(),
        None if output.reconstruction is None else output.reconstruction.clone().requires_grad_(),
        tuple(embedding.clone().requires_grad_() for embedding in output.embeddings),
    )


def test_values_computed_by_hand():
    losses = PANetLoss()(*example())
    assert losses.classification.item() == pytest.approx(math.log(2))
    assert losses.reconstruction.item() == pytest.approx(0.375)
    assert losses.metric.item() == pytest.approx(-0.75)
    assert losses.total.item() == pytest.approx(math.log(2) + 0.1 * 0.375 - 0.1 * 0.75)


def test_weights_of_the_terms():
    losses = PANetLoss(lambda_reconstruction=2, lambda_metric=3)(*example())
    assert losses.total.item() == pytest.approx(math.log(2) + 2 * 0.375 - 3 * 0.75)


def test_recce_clips_each_embedding_term():
    output, images, labels = example()
    clip = PANetLoss(clip_metric=True)
    assert clip(output, images, labels).metric.item() == pytest.approx(3 * 0.75)
    apart = torch.tensor([REAL_A, REAL_A, FAKE])  # real-real 0, real-fake 1: 1 + L_m = 0
    assert clip(output._replace(embeddings=(apart,)), images, labels).metric.item() == pytest.approx(0, abs=1e-7)


@pytest.mark.parametrize(("logit", "flooded"), [(0.0, math.log(2)), (-10.0, 0.08 - math.log1p(math.exp(-10)))])
def test_recce_floods_the_classification_loss(logit, flooded):
    output, images, _ = example()
    output = output._replace(logits=torch.full((3, 1), logit))
    losses = PANetLoss(flood=0.04)(output, images, torch.zeros(3, dtype=torch.long))
    assert losses.classification.item() == pytest.approx(flooded, rel=1e-5)


def test_cross_entropy_with_several_classes_and_every_label_but_0_is_fake():
    output, images, _ = example()
    output = output._replace(logits=torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, math.log(2), 0.0]]))
    losses = PANetLoss()(output, images, torch.tensor([0, 0, 2]))
    assert losses.classification.item() == pytest.approx((math.log(3) + math.log(3) + math.log(4)) / 3)
    assert losses.metric.item() == pytest.approx(-0.75)
    assert losses.reconstruction.item() == pytest.approx(0.375)


def test_distances_depend_only_on_directions():
    output, images, labels = example()
    scaled = tuple(embedding * torch.tensor([[3.0], [0.2], [7.0]]) for embedding in output.embeddings)
    assert PANetLoss()(output._replace(embeddings=scaled), images, labels).metric.item() == pytest.approx(-0.75)


@pytest.mark.parametrize("labels", [torch.tensor([False, False, True]), torch.tensor([0, 0, 1], dtype=torch.uint8)])
def test_bool_and_small_integer_labels(labels):
    output, images, integers = example()
    assert PANetLoss()(output, images, labels) == PANetLoss()(output, images, integers)


# labels, reconstruction, metric of one embedding, images whose reconstruction / embedding get a gradient
SPARSE = [
    pytest.param([1, 1, 1], 0.0, 0.0, [], [], id="no real"),
    pytest.param([1, 0, 1], 0.25, -(0.5 + 0.5) / 2, [1], [0, 1, 2], id="one real"),
    pytest.param([0, 0, 0], (0.5 + 0.25 + 5) / 3, (0.5 + 1 + 0.5) / 3, [0, 1, 2], [0, 1, 2], id="no fake"),
]


@pytest.mark.parametrize(("labels", "reconstruction", "metric", "drawn", "embedded"), SPARSE)
@pytest.mark.parametrize("options", [{}, {"flood": 0.04, "clip_metric": True}])
def test_batches_without_a_class(labels, reconstruction, metric, drawn, embedded, options):
    output, images, _ = example()
    output = with_gradients(output)
    losses = PANetLoss(**options)(output, images, torch.tensor(labels))
    losses.total.backward()
    assert losses.reconstruction.item() == pytest.approx(reconstruction)
    assert losses.metric.item() == pytest.approx(3 * (metric + 1 if options else metric))
    assert all(value.isfinite() for value in losses)
    assert output.logits.grad.abs().min() > 0
    assert output.reconstruction.grad.flatten(1).abs().amax(1).nonzero().flatten().tolist() == drawn
    for embedding in output.embeddings:
        assert embedding.grad.isfinite().all()
        touched = embedding.grad.abs().amax(1) > 0
        assert set(touched.nonzero().flatten().tolist()) <= set(embedded)
        assert touched.any() == bool(embedded)


def test_one_image_alone():
    output, images, _ = example()
    output = with_gradients(PANetOutput(output.logits[:1], output.reconstruction[:1], (output.embeddings[0][:1],)))
    losses = PANetLoss()(output, images[:1], torch.tensor([0]))
    losses.total.backward()
    assert losses.metric.item() == 0 and output.embeddings[0].grad.abs().max() == 0


def test_gradcheck():
    torch.manual_seed(0)
    _, images, labels = example(torch.float64)
    images, labels = images[:, :, :2, :2], labels

    def total(logits, reconstruction, embedding):
        return PANetLoss()(PANetOutput(logits, reconstruction, (embedding,)), images, labels).total

    inputs = [torch.randn(s, dtype=torch.float64, requires_grad=True) for s in ((3, 1), (3, 3, 2, 2), (3, 4))]
    assert torch.autograd.gradcheck(total, inputs)


def test_the_baselines_output_has_only_a_classification_loss():
    _, images, labels = example()
    losses = PANetLoss(clip_metric=True)(PANetOutput(torch.zeros(3, 1), None, ()), images, labels)
    assert losses.reconstruction.item() == losses.metric.item() == 0
    assert losses.total.item() == losses.classification.item()


def test_statistics_stay_float32_under_autocast():
    torch.manual_seed(0)
    embedding = torch.randn(8, 16)
    output = PANetOutput(torch.zeros(8, 1).bfloat16(), torch.zeros(8, 3, 4, 4), (embedding,))
    images, labels = torch.ones(8, 3, 4, 4), torch.arange(8) % 2
    plain = PANetLoss()(output, images, labels)
    with torch.autocast("cpu", torch.bfloat16):
        cast = PANetLoss()(output, images, labels)
    assert all(value.dtype == torch.float32 for value in cast)
    assert cast.metric.item() == plain.metric.item()


def test_float64_stays_float64():
    assert PANetLoss()(*example(torch.float64)).total.dtype == torch.float64


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": torch.tensor([0, 1])}, r"labels must be \(3,\), one per image, got \(2,\)"),
        ({"labels": torch.tensor([[0], [0], [1]])}, r"labels must be \(3,\), one per image, got \(3, 1\)"),
        ({"labels": torch.tensor([0.0, 0.0, 1.0])}, r"labels must be integers .* got torch.float32"),
        ({"images": torch.zeros(3, 3, 5, 4)}, r"images must be .*\(3, 3, 4, 4\), got \(3, 3, 5, 4\)"),
        ({"images": torch.zeros(2, 3, 4, 4)}, r"images must be .*\(3, 3, 4, 4\), got \(2, 3, 4, 4\)"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(change, message):
    output, images, labels = example()
    given = {"images": images, "labels": labels, **change}
    with pytest.raises(ValueError, match=message):
        PANetLoss()(output, given["images"], given["labels"])


@pytest.mark.parametrize("number", range(3))
def test_inputs_that_are_no_tensors_are_refused(number):
    given = list(example())
    given[number] = [0, 0, 1]
    name = ("output", "images", "labels")[number]
    with pytest.raises(TypeError, match=f"{name} must be .*, got a list"):
        PANetLoss()(*given)


def test_every_label_but_0_is_fake_to_one_logit():
    output, images, _ = example()
    wanted = PANetLoss()(output, images, torch.tensor([0, 1, 1]))
    for labels in (torch.tensor([0, 2, 5]), torch.tensor([False, True, True])):
        torch.testing.assert_close(PANetLoss()(output, images, labels), wanted, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lambda_reconstruction": -1}, "lambda_reconstruction must be .* got -1"),
        ({"lambda_metric": math.nan}, "lambda_metric must be .* got nan"),
        ({"flood": -0.1}, "flood must be .* got -0.1"),
        ({"flood": "much"}, "flood must be .* got 'much'"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        PANetLoss(**options)


def test_repr_shows_the_settings():
    assert "flood=0.04" in repr(PANetLoss(flood=0.04))
