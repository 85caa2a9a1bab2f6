"""AVELocalizer: parameter counts of the paper, data flow of both forms, every ablation."""

from __future__ import annotations

import json

import pytest
import torch
from torch.nn import functional as F

from jca_fast import AVELocalizer
from jca_fast.cli import main
from jca_fast.models.params import count_parameters
from jca_fast.models.tables import TABLE_3, TABLE_5

SMALL = {
    "audio_dim": 8,
    "visual_dim": 12,
    "num_layers": 2,
    "audio_features": 10,
    "region_features": 14,
}
ABLATIONS = [
    {},
    *(row.arguments for row in TABLE_3[:-1]),
    {"joint_cell": "gru"},
    {"modalities": "audio"},
    {"modalities": "visual"},
    {"normalize": False},
    {"num_layers": 1},
    {"num_layers": 5},
    {"joint": "concat_fc"},
]


def clips(batch=2, regions=(7, 7), dtype=torch.float32):
    return torch.rand(batch, 10, 10, dtype=dtype), torch.rand(batch, 10, *regions, 14, dtype=dtype)


@pytest.mark.parametrize("row", TABLE_5, ids=lambda row: row.label)
def test_released_form_has_the_parameters_of_table_5(row):
    count = count_parameters(form="released", **row.arguments)
    millions = (
        count / 1e6
    )  # the paper rounds most rows and cuts two (20.15 is printed as 20.1, 5.28 as 5.2)
    assert row.parameters in (f"{millions:.1f}", f"{int(millions * 10) / 10:.1f}")


def test_params_command_prints_all_rows(capsys):
    assert main(["params"]) == 0
    printed = capsys.readouterr().out
    assert "22.776510" in printed
    assert printed.count("d_a =") == len(TABLE_5)


@pytest.mark.parametrize("form", ["paper", "released"])
@pytest.mark.parametrize("arguments", ABLATIONS, ids=str)
def test_every_ablation_trains(form, arguments):
    model = AVELocalizer(**{**SMALL, "form": form, **arguments})
    model.eval()
    for batch in (0, 1, 3):
        audio, visual = clips(batch)
        scores = model(audio, visual)
        assert scores.shape == (batch, 10, 29)
        assert ((scores >= 0) & (scores <= 1)).all()
        if form == "released":
            torch.testing.assert_close(scores.sum(-1), torch.ones(batch, 10))
    model.train()
    model(*clips()).square().sum().backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("form", ["paper", "released"])
def test_config_rebuilds_the_model(form):
    model = AVELocalizer(**SMALL, form=form).eval()
    twin = AVELocalizer(**json.loads(json.dumps(model.config))).eval()
    twin.load_state_dict(model.state_dict())
    inputs = clips()
    assert torch.equal(model(*inputs), twin(*inputs))


def test_paper_data_flow():
    """Early fusion by the audio input, two networks, J = [audio; visual], Bi-LSTM, MLP, sigmoid."""
    model = AVELocalizer(**SMALL, form="paper").double().eval()
    audio, visual = clips(dtype=torch.float64)
    a = F.normalize(audio, dim=-1)
    regions = F.normalize(visual.reshape(2, 10, 49, 14), dim=-1)
    reduced, weights = model.reduction(a, regions)
    fused = model.fusion(model.audio_network(a), model.visual_network(reduced))
    logits = model.head(model.joint_network(torch.cat(fused, -1)))
    scores, maps = model(audio, visual, return_maps=True)
    torch.testing.assert_close(scores, torch.sigmoid(logits))
    torch.testing.assert_close(model.logits(audio, visual), logits)
    torch.testing.assert_close(maps["visual_attention"], weights)
    assert [layer.out_features for layer in model.head if hasattr(layer, "out_features")] == [
        1024,
        256,
        29,
    ]


def test_released_data_flow():
    """The audio network's output guides the regions, J = [visual; audio], softmax."""
    model = AVELocalizer(**SMALL, form="released").double().eval()
    audio, visual = clips(dtype=torch.float64)
    a = model.audio_network(F.normalize(audio, dim=-1))
    reduced, _ = model.reduction(a, F.normalize(visual.reshape(2, 10, 49, 14), dim=-1))
    fused = model.fusion(model.visual_network(reduced), a)
    expected = torch.softmax(model.head(model.joint_network(torch.cat(fused, -1))), -1)
    torch.testing.assert_close(model(audio, visual), expected)


@pytest.mark.parametrize("form", ["paper", "released"])
def test_maps_have_the_papers_shapes(form):
    model = AVELocalizer(**SMALL, form=form).eval()
    _, maps = model(*clips(), return_maps=True)
    assert maps["visual_attention"].shape == (2, 10, 49)
    torch.testing.assert_close(maps["visual_attention"].sum(-1), torch.ones(2, 10))
    assert len(maps["coattention"]) == 2
    for layer in maps["coattention"]:
        assert [c.shape for c in layer["C"]] == [(2, 8, 20), (2, 12, 20)]
        expected = [(2, 32, 8), (2, 32, 12)] if form == "paper" else [(2, 10, 20)] * 2
        assert [h.shape for h in layer["H"]] == expected


@pytest.mark.parametrize("form", ["paper", "released"])
@pytest.mark.parametrize("kept", ["audio", "visual"])
def test_single_modality_never_reads_the_other(form, kept):
    model = AVELocalizer(**SMALL, form=form, modalities=kept).eval()
    audio, visual = clips()
    other = (
        (torch.full_like(audio, torch.nan), visual)
        if kept == "visual"
        else (audio, torch.full_like(visual, torch.nan))
    )
    assert torch.equal(model(audio, visual), model(*other))


def test_regions_in_both_layouts_and_any_number():
    model = AVELocalizer(**SMALL).eval()
    audio, visual = clips()
    assert torch.equal(model(audio, visual), model(audio, visual.flatten(2, 3)))
    assert model(audio, visual[:, :, :3]).shape == (2, 10, 29)


def test_input_errors():
    model = AVELocalizer(**SMALL)
    audio, visual = clips()
    message = r"audio must have shape \(B, 10, 10\), or fewer segments, got \(2, 11, 10\)"
    with pytest.raises(ValueError, match=message):
        model(torch.zeros(2, 11, 10), torch.zeros(2, 11, 7, 7, 14))
    with pytest.raises(ValueError, match=r"visual must have shape \(2, 9, H, W, 14\)"):
        model(audio[:, :9], visual)
    with pytest.raises(
        ValueError,
        match=r"visual must have shape \(2, 10, H, W, 14\) or \(2, 10, R, 14\), got \(1, ",
    ):
        model(audio, visual[:1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"form": "eq"}, "form must be one of 'paper', 'released'; got 'eq'"),
        ({"pooling": "mean"}, "pooling must be one of 'attention', 'average', 'max'; got 'mean'"),
        ({"modalities": "video"}, "modalities must be one of"),
        ({"num_classes": 0}, "num_classes must be an int of at least 1"),
        ({"audio_dim": 7}, "dim must be even"),
        ({"dropout": -0.1}, "dropout must be a probability"),
        ({"joint": "add"}, "needs modalities of one width"),
    ],
)
def test_constructor_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        AVELocalizer(**{**SMALL, **arguments})
