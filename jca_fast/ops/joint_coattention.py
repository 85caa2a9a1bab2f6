"""One whole layer of Joint Co-Attention in the paper's form, for all modalities at once.

For each modality X_i (B, N, d_i) with its joint feature J (B, N, d), by default the concatenation
of all modalities:

    C_i = tanh( X_iᵀ W_ji J * scale )            (B, d_i, d)      Eqs. 3, 4
    H_i = relu( W_i X_i + W_ci C_iᵀ )            (B, k, d_i)      section 3.3
    X_i' = X_i + W_hiᵀ H_i                       (B, N, d_i)      Eqs. 5, 6

W_ji (N, N), W_i (k, N), W_ci (k, d), W_hi (k, N). Dropout acts on C_i with the seed of its
modality. The inputs and the small H_i are saved; the backward recomputes C_i. The registered op
omits the first term of X_i' where ``residual`` is False.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from . import reference
from .autograd import differentiable, record, run, vjp_of
from .backends import choose
from .checks import (
    autocast,
    check_alike,
    check_number,
    check_size,
    check_sizes_positive,
    check_tensor,
    dropout_seed,
    inverse_root,
)


def joint_coattention(
    inputs: Sequence[Tensor],
    w_j: Sequence[Tensor],
    w_x: Sequence[Tensor],
    w_c: Sequence[Tensor],
    w_h: Sequence[Tensor],
    *,
    joints: Sequence[Tensor] = (),
    scales: Sequence[float] | None = None,
    dropout_p: float = 0.0,
    generator: torch.Generator | None = None,
    seed: int | Tensor | None = None,
    backend: str = "auto",
) -> tuple[Tensor, ...]:
    """``X' = X + W_hᵀ relu(W_x X + W_c tanh(Xᵀ W_j J * scale)ᵀ)`` for every modality X, in one
    call.

    Args:
        inputs: the modalities X_i (B, N, d_i), audio and visual first; two or more.
        w_j: one W_j (N, N) for each modality.
        w_x: one W_a, W_v, ... (k, N) for each modality.
        w_c: one W_ca, W_cv, ... (k, d) for each modality, d the width of its joint feature.
        w_h: one W_ha, W_hv, ... (k, N) for each modality.
        joints: empty for the concatenation of the inputs, one J (B, N, d) for all, or one for each
            modality.
        scales: one factor for each modality; 1/sqrt(d) if None.
        dropout_p: probability with which elements of C are dropped, quantised to 1/65536.
        generator: draws the seed of the dropout mask; the device's default generator if None.
        seed: the seed itself (an int or an int64 tensor ()), in place of a generator.
        backend: "auto" or the name of a backend; an explicit one that cannot run raises.

    Returns:
        The new features X_i' (B, N, d_i), in the order and the dtype of ``inputs``. Autocast casts
        the operands of the products; the residual is added in the dtype of the inputs.

    Raises:
        TypeError, ValueError: an argument has the wrong type, dtype, device or shape.
        RuntimeError: the requested backend cannot run these inputs.

    Source: Eqs. 3-8 of Duan et al., WACV 2021.
    """
    given = {"inputs": inputs, "joints": joints, "w_j": w_j, "w_x": w_x, "w_c": w_c, "w_h": w_h}
    groups: dict[str, Sequence[Tensor]] = {name: _as_list(name, g) for name, g in given.items()}
    _check_groups(groups)
    tensors = autocast(list(chain.from_iterable(groups.values())))
    check_alike(
        [f"{name}[{i}]" for name, group in groups.items() for i in range(len(group))], tensors
    )
    factors = _factors(scales, groups["w_c"])
    seed = dropout_seed(dropout_p, seed, generator, tensors[0].device)
    backend = choose("joint_coattention", backend, tensors)
    grouped: list[Any] = _split(tensors, [len(group) for group in groups.values()])
    if not groups["joints"] and torch.compiler.is_exporting():
        grouped[1] = None  # PyTorch's ahead-of-time compiler does not support an empty list
    options = (factors, float(dropout_p), seed, False)
    inputs = groups["inputs"]
    if all(x.dtype == cast.dtype for x, cast in zip(inputs, tensors, strict=False)):
        return tuple(_call(backend, *grouped, *options))
    # Under autocast the residual is added in the dtype of the inputs, so that X is not rounded.
    updates = _call(backend, *grouped, *options, False)
    return tuple(x + update for x, update in zip(inputs, updates, strict=True))


def _factors(scales: Sequence[float] | None, w_c: Sequence[Tensor]) -> list[float]:
    """One factor of the scores for each modality; 1/sqrt(d) if ``scales`` is None."""
    if scales is None:
        return [inverse_root(w.shape[1]) for w in w_c]
    scales = _as_list("scales", scales)
    if len(scales) != len(w_c):
        raise ValueError(
            f"scales must hold one factor for each of the {len(w_c)} modalities, got {len(scales)}"
        )
    for i, scale in enumerate(scales):
        check_number(f"scales[{i}]", scale)
    return [float(scale) for scale in scales]


def _as_list(name: str, group: Iterable[Any]) -> list[Any]:
    try:
        return list(group)
    except TypeError:
        raise TypeError(f"{name} must be a list, got {type(group).__name__}") from None


def _check_groups(groups: dict[str, Sequence[Tensor]]) -> None:
    """All tensors of a layer must have the right types, counts and shapes."""
    inputs, joints = groups["inputs"], groups["joints"]
    if len(inputs) < 2:
        raise ValueError(f"inputs must hold two or more modalities (B, N, d_i), got {len(inputs)}")
    for i, x in enumerate(inputs):
        check_tensor(f"inputs[{i}]", x, 3, "(B, N, d_i)")
        check_size(f"inputs[{i}]", x, (*inputs[0].shape[:2], None), "(B, N, d_i)")
        check_sizes_positive(f"inputs[{i}]", x)
    batch, segments = inputs[0].shape[:2]
    if len(joints) not in (0, 1, len(inputs)):
        raise ValueError(
            f"joints must hold 0, 1 or {len(inputs)} tensors (B, N, d), got {len(joints)}"
        )
    for i, joint in enumerate(joints):
        check_tensor(f"joints[{i}]", joint, 3, "(B, N, d)")
        check_size(f"joints[{i}]", joint, (batch, segments, None), "(B, N, d)")
        check_sizes_positive(f"joints[{i}]", joint)
    widths = [j.shape[2] for j in joints] or [sum(x.shape[2] for x in inputs)]
    widths = widths if len(widths) == len(inputs) else widths * len(inputs)
    for name in ("w_j", "w_x", "w_c", "w_h"):
        if len(groups[name]) != len(inputs):
            raise ValueError(
                f"{name} must hold one weight for each of the {len(inputs)} modalities, got "
                f"{len(groups[name])}"
            )
    for i, width in enumerate(widths):
        check_tensor(f"w_x[{i}]", groups["w_x"][i], 2, "(k, N)")
        k = groups["w_x"][i].shape[0]
        shapes = {
            "w_j": (segments, segments),
            "w_x": (k, segments),
            "w_c": (k, width),
            "w_h": (k, segments),
        }
        layouts = {"w_j": "(N, N)", "w_x": "(k, N)", "w_c": "(k, d)", "w_h": "(k, N)"}
        for name, shape in shapes.items():
            check_tensor(f"{name}[{i}]", groups[name][i], 2, layouts[name])
            check_size(f"{name}[{i}]", groups[name][i], shape, layouts[name])
            check_sizes_positive(f"{name}[{i}]", groups[name][i][None])


def _split(tensors: Sequence[Tensor], sizes: Sequence[int]) -> list[list[Tensor]]:
    """The flat list of all tensors as its groups: inputs, joints, w_j, w_x, w_c, w_h."""
    flat = iter(tensors)
    return [[next(flat) for _ in range(size)] for size in sizes]


class JointCoAttention(torch.autograd.Function):
    """(backend, sizes, options, seed, *tensors) -> X' and H of each modality.

    ``options`` are (scales, dropout_p, residual). Autograd needs a flat list of tensors.
    """

    @staticmethod
    def forward(backend, sizes, options, seed, *tensors):
        scales, dropout_p, residual = options
        args = (*_split(tensors, sizes), scales, dropout_p, seed, True, residual)
        return tuple(run("joint_coattention", backend, *args))

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.backend, ctx.sizes, ctx.options, seed, *tensors = inputs
        maps = output[ctx.sizes[0] :]
        ctx.mark_non_differentiable(*maps)
        ctx.save_for_backward(seed, *maps, *tensors)

    @staticmethod
    def backward(ctx, *grads):
        seed, *tensors = ctx.saved_tensors
        n = ctx.sizes[0]
        groups = _split((*grads[:n], *tensors), (n, n, *ctx.sizes))
        scales, dropout_p, residual = ctx.options
        args = (*groups, scales, dropout_p, seed, residual)
        return None, None, None, None, *_call_backward(ctx.backend, *args)


class JointCoAttentionBackward(torch.autograd.Function):
    """(backend, sizes, options, seed, *grad_outs, *maps, *tensors) -> every tensor's gradient."""

    @staticmethod
    def forward(backend, sizes, options, seed, *tensors):
        scales, dropout_p, residual = options
        groups = _split(tensors, (sizes[0], sizes[0], *sizes))
        args = (*groups, scales, dropout_p, seed, residual)
        return tuple(run("joint_coattention_backward", backend, *args))

    @staticmethod
    def setup_context(ctx, inputs, output):
        _, ctx.sizes, ctx.options, seed, *tensors = inputs
        n = ctx.sizes[0]
        ctx.save_for_backward(seed, *tensors[:n], *tensors[2 * n :])

    @staticmethod
    def backward(ctx, *grads):
        seed, *tensors = ctx.saved_tensors
        n = ctx.sizes[0]
        scales, dropout_p, residual = ctx.options
        options = (scales, dropout_p, seed)

        def formula(*tensors):
            grad_outs, *groups = _split(tensors, (n, *ctx.sizes))
            inputs, joints, w_j, w_x, w_c, w_h = groups
            weights = (w_j, w_x, w_c, w_h)
            # recomputed so that gradients flow
            maps = reference.joint_coattention(inputs, joints, *weights, *options, True)[n:]
            return reference.joint_coattention_backward(
                grad_outs, maps, inputs, joints, *weights, *options, residual
            )

        vjp = vjp_of(formula, tensors, grads)
        return None, None, None, None, *vjp[:n], *(None for _ in range(n)), *vjp[n:]


def _record(backend: str, *args: Any) -> list[Tensor]:
    """joint_coattention on the arguments of its schema."""
    groups, (scales, dropout_p, seed, keep_maps, *rest) = args[:6], args[6:]
    sizes = [len(group) for group in groups]
    options = (scales, dropout_p, *(rest or (True,)))
    results = record(JointCoAttention, backend, sizes, options, seed, *chain(*groups))
    return list(results if keep_maps else results[: sizes[0]])


def _record_backward(backend: str, *args: Any) -> list[Tensor]:
    """joint_coattention_backward on the arguments of its schema."""
    groups, (scales, dropout_p, seed, *rest) = args[:8], args[8:]
    sizes = [len(group) for group in groups[2:]]
    options = (scales, dropout_p, *(rest or (True,)))
    return list(record(JointCoAttentionBackward, backend, sizes, options, seed, *chain(*groups)))


def _count(inputs, joints, w_j, w_x, w_c, *_, **options):
    total = 0
    for x, (k, d) in zip(inputs, (w.shape for w in w_c), strict=True):
        batch, n, d_x = x.shape
        total += batch * (n * n * d + d_x * (d * (n + k) + 2 * k * n))
    return total


def _count_backward(grad_outs, maps, inputs, joints, w_j, w_x, w_c, *_, **options):
    total = 0
    for x, (k, d) in zip(inputs, (w.shape for w in w_c), strict=True):
        batch, n, d_x = x.shape
        total += batch * (3 * n * n * d + d_x * (d * (3 * n + 2 * k) + 4 * k * n))
    return total


_call = differentiable("joint_coattention", _record, _count)
_call_backward = differentiable("joint_coattention_backward", _record_backward, _count_backward)
