"""The published modules against their jca_fast.compat replacements, with the same weights."""

from __future__ import annotations

import pytest

from benchmarks import memory
from benchmarks.drop_in import CASES, MODULES, TRAINED, evaluations, products, providers
from benchmarks.table import Row
from jca_fast.bench.pairs import check_parity
from jca_fast.bench.profile import parts

IN_MEMORY = (
    "cam_n8_attention",
    "cam_n16_attention",
    "cam_n8",
    "cam_n16",
    "jcam_512",
    "dcn_n10_512_512",
    "dcn_n16_512_512",
    "dcn_n300_256_128_128",
)
SMOKE = ("cam_n8_attention", "cam_n16", "dcn_n8_512_192")

DEFAULT = (*SMOKE, "JointCrossAttentional-AV-Fusion")
"""The modules and the repository of a run without --full: the fastest of each kind."""

BOUND = ("ops of jca_fast", "LSTM", "matrix products")
"""The parts of a training step that bound it: everything else could cost nothing at best."""


def cases(names, default):
    """The names of the cases; those outside the default set belong to a full run."""
    return [
        name if name in default else pytest.param(name, marks=pytest.mark.full) for name in names
    ]


@pytest.mark.parametrize("name", cases(MODULES, DEFAULT))
def test_drop_in(paired, quick, name):
    if quick and name not in SMOKE:
        pytest.skip("one module of each kind is enough for a smoke run")
    batch = 4 if quick else CASES[name].batch
    paired(name, f"batch {batch}", providers(name, batch), batch=batch)


@pytest.mark.full
def test_products_of_position_attn(paired):
    """The limit of the attention over 49 regions: PyTorch's time for its matrix products."""
    case = CASES["position_attn"]
    runs = {"products": products(case.batch * case.shapes[0][0])}
    runs["jca_fast"] = providers("position_attn")["jca_fast"]
    label = f"batch {case.batch}"
    paired(
        "position_attn, products", label, runs, parity=False, limit=lambda r: r["products"]["ratio"]
    )


@pytest.mark.parametrize("name", cases(TRAINED, DEFAULT))
def test_as_trained(paired, quick, name):
    """A repository's whole model with its dropout, at the batch size of its script."""
    batch = 4 if quick else CASES[name].batch
    check_parity(providers(name, 4))
    timed = providers(name, batch, training=True)
    spent = {provider: parts(run) for provider, run in timed.items()}
    share = sum(spent["jca_fast"][part] for part in BOUND) / sum(spent["jca_fast"].values())
    facts = {"parity": False, "limit": lambda _: share, "batch": batch, "parts": spent}
    paired(f"{name:.24}", f"batch {batch}", timed, **facts)


@pytest.mark.parametrize("name", cases(TRAINED, DEFAULT))
def test_as_evaluated(paired, quick, name):
    """The forward of a repository's whole model in evaluation, without gradients."""
    batch = 4 if quick else CASES[name].batch
    paired(f"{name:.20} eval", f"batch {batch}", evaluations(name, batch), batch=batch)


@pytest.mark.parametrize("name", cases((*IN_MEMORY, *TRAINED), IN_MEMORY[:1]))
def test_drop_in_memory(replayed, quick, name):
    """Growth of the peak, forward and backward, beyond weights and inputs; each provider in a
    separate process.
    """
    if quick and name != IN_MEMORY[0]:
        pytest.skip("one module is enough for a smoke run")
    peaks, duration = memory.compare(name, ("published", "jca_fast"))
    replayed(Row(f"{name:.24}", f"batch {CASES[name].batch}", peak_mib=peaks), duration)
