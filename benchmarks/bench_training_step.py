"""A whole training step of the published model: 512/512, four layers, with and without its dropout;
batch 16, in a full run the published 64.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from jca_fast import AVELocalizer
from jca_fast.bench.pairs import check_parity
from jca_fast.bench.plain import plain_model


@pytest.mark.parametrize(
    ("form", "dropout"),
    [("released", True), pytest.param("released", False, marks=pytest.mark.full), ("paper", False)],
)
def test_training_step(paired, request, quick, form, dropout):
    """The paper's form has no dropout."""
    batch = 4 if quick else 64 if request.config.option.full else 16
    off = {} if dropout else {"dropout": 0.0, "rnn_dropout": 0.0}
    model = AVELocalizer(form=form, **off)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    audio, visual = torch.rand(batch, 10, 128), torch.rand(batch, 10, 7, 7, 512)
    labels = F.one_hot(torch.randint(0, 29, (batch, 10)), 29).float()

    def ours():
        optimizer.zero_grad()
        loss = F.multilabel_soft_margin_loss(
            model(audio, visual).flatten(0, 1), labels.flatten(0, 1)
        )
        loss.backward()
        optimizer.step()

    def published():
        with plain_model(model):
            ours()

    if off:
        before = {name: value.clone() for name, value in model.state_dict().items()}

        def gradients(step):
            model.load_state_dict(before)
            step()
            return [p.grad.clone() for p in model.parameters()]

        check_parity({"eager": lambda: gradients(published), "jca_fast": lambda: gradients(ours)})
    label = f"{form} model, {'no dropout' if off else 'dropout'}"
    providers = {"eager": published, "jca_fast": ours}
    paired(label, f"step, batch {batch}", providers, parity=False, batch=batch)
