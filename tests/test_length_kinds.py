"""Every kind of lengths and mask, under transforms and tracers, and windows in half precision."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from jca_fast import AVELocalizer, JointCoAttention
from jca_fast.modules import cut_windows, join_windows, window_lengths

LENGTHS = [1, 5, 3]


def small(form="paper"):
    features = [torch.randn(3, 5, width, dtype=torch.float64) for width in (4, 2)]
    return JointCoAttention(4, 2, 5, 3, 1, form).double(), features


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32, np.uint64])
def test_integers_of_every_width(dtype):
    module, features = small()
    expected = module(*features, lengths=LENGTHS)
    counts = np.array(LENGTHS, dtype)
    torch.testing.assert_close(module(*features, lengths=counts), expected)
    with pytest.raises(ValueError, match="lengths must lie between 0 and 5, got"):
        module(*features, lengths=counts + np.array(3, dtype))
    assert window_lengths(counts, 5, 4).tolist() == [[1, 0], [4, 4], [3, 2]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"lengths": torch.tensor(LENGTHS, device="meta")},
            "lengths must be on cpu or .*, got meta",
        ),
        ({"lengths": torch.tensor(LENGTHS).to_sparse()}, "lengths must be a dense tensor"),
        (
            {"key_padding_mask": torch.ones(3, 5, device="meta").bool()},
            "key_padding_mask must be on cpu or .*, got meta",
        ),
        (
            {"key_padding_mask": torch.ones(3, 5).bool().to_sparse()},
            "key_padding_mask must be a dense tensor",
        ),
    ],
)
def test_kinds_of_tensors_that_hold_no_numbers(options, message):
    module, features = small()
    with pytest.raises((TypeError, ValueError), match=message):
        module(*features, **options)


def test_a_list_of_lengths_does_not_follow_the_default_device():
    module, features = small()
    expected = module(*features, lengths=LENGTHS)
    with torch.device("meta"):
        torch.testing.assert_close(module(*features, lengths=LENGTHS), expected)
        with pytest.raises(ValueError, match="lengths must lie between 0 and 5"):
            module(*features, lengths=[1, 6, 3])


@pytest.mark.parametrize("form", ["paper", "released"])
def test_lengths_under_transforms_and_tracers(form):
    """The range of lengths is checked only where their values are known."""
    module, features = small(form)
    lengths = torch.tensor([LENGTHS, [2, 0, 4]])

    def total(audio, lengths):
        return module(audio, features[1], lengths=lengths)[0].square().sum()

    mapped = torch.func.vmap(torch.func.grad(total), (None, 0))(features[0], lengths)
    single = [torch.func.grad(total)(features[0], row) for row in lengths]
    torch.testing.assert_close(mapped, torch.stack(single))
    graph = make_fx(total)(features[0], lengths[0])
    torch.testing.assert_close(graph(features[0], lengths[1]), total(features[0], lengths[1]))
    with FakeTensorMode(allow_non_fake_inputs=True) as fake:
        inputs = [fake.from_tensor(x) for x in features]
        out = module(*inputs, lengths=fake.from_tensor(lengths[0]))
    assert out[0].shape == (3, 5, 4)


class Around(nn.Module):
    """Calls the wrapped module, and has none of its attributes."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, *args, **options):
        return self.module(*args, **options)


@pytest.mark.parametrize("part", ["audio_network", "visual_network", "joint_network"])
def test_a_wrapped_recurrent_network_sees_the_lengths(part):
    sizes = {"audio_features": 3, "region_features": 4, "num_regions": 2, "num_segments": 5}
    model = AVELocalizer(4, 4, 1, **sizes)
    inputs = torch.randn(2, 5, 3), torch.randn(2, 5, 2, 4)
    expected = model(*inputs, lengths=[2, 5])
    setattr(model, part, Around(getattr(model, part)))
    torch.testing.assert_close(model(*inputs, lengths=[2, 5]), expected, rtol=0, atol=0)


@pytest.mark.parametrize(("dtype", "size"), [(torch.bfloat16, 300), (torch.float16, 2100)])
def test_many_windows_in_half_precision(dtype, size):
    """Half precision cannot count past 256 or 2048, and its sums lose the last terms."""
    x = (torch.rand(1, 2 * size, 1) + 1).to(dtype)
    joined = join_windows(cut_windows(x, size, 1), 2 * size, 1)
    torch.testing.assert_close(joined, x, rtol=torch.finfo(dtype).eps, atol=0)


def test_windows_name_what_they_cannot_cut():
    for bad in ([1.0, 2.0], torch.ones(3)):
        with pytest.raises((TypeError, ValueError), match=r"x must be a tensor \(B, T, ...\)"):
            cut_windows(bad, 2)
        with pytest.raises((TypeError, ValueError), match=r"y must be a tensor \(B, W, size"):
            join_windows(bad, 2)
    with pytest.raises(TypeError, match="lengths must be integers"):
        window_lengths([1.5, 2.0], 5, 4)
    assert window_lengths([5, 1], 5, 4).tolist() == [[4, 4], [1, 0]]
