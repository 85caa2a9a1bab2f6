"""Tells whether the attributes of a submodule may be read instead of calling it.

The fused ops need the weight of a Linear and the probability of a Dropout, so their modules read
these submodules and never call them. That is only right where a call would compute nothing else:
LoRA wrappers, hooks, pruning, weight normalisation, quantisation, sharding and replaced modules
all act in the call. The functions of this file find such submodules, which are then called.
"""

from __future__ import annotations

from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook
from torch.utils._python_dispatch import is_traceable_wrapper_subclass


def is_plain(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether a call of ``module`` only runs the forward of ``kind``.

    A subclass, a hook on the module or on all modules, and a replaced ``forward`` make it False.
    Parametrizations and FSDP2 change the type of a module.
    """
    return (
        type(module) is kind
        and "forward" not in module.__dict__
        and not module._forward_hooks
        and not module._forward_pre_hooks
        and not module._backward_hooks
        and not module._backward_pre_hooks
        and not _has_any_global_hook()
    )


def is_plain_linear(module: nn.Module) -> TypeGuard[nn.Linear]:
    """Whether ``module(x)`` is ``x weightᵀ + bias`` with its attributes ``weight`` and ``bias``.

    It is also False where the weight is a wrapped tensor or a subclass with functions of its kind,
    as in quantised or tensor-parallel models.
    """
    return is_plain(module, nn.Linear) and _is_plain_tensor(module.weight)


def _is_plain_tensor(weight: Any) -> bool:
    kind = type(weight)
    if kind is nn.Parameter or kind is Tensor:
        return True
    own_functions = kind.__torch_function__ is not torch._C._disabled_torch_function_impl
    return not own_functions and not is_traceable_wrapper_subclass(weight)


def dropout_rate(module: nn.Module) -> float | None:
    """The current drop probability of an ``nn.Dropout`` or ``nn.Identity``.

    It follows the ``p`` and the ``training`` of the module, so that Monte-Carlo dropout works. It
    is None for any other module, and for one with hooks: these have to be called.
    """
    if is_plain(module, nn.Dropout):
        return float(module.p) if module.training else 0.0  # type: ignore[arg-type]
    return 0.0 if is_plain(module, nn.Identity) else None
