"""The plans of the CUDA kernels, executed: what a driver would get goes to the executor instead."""

from __future__ import annotations

import ctypes
import functools
from dataclasses import dataclass

import numpy as np
import torch
from jca_fast.kernels.cuda import native
from torch import Tensor

from benchmarks.audit.cuda import ptx
from benchmarks.audit.sass import tool
from jca_fast.ops.dropout import threshold

from .formats import WIDTHS, Array
from .machine import Launch, Machine, Options
from .memory import Arena, Findings
from .parser import Instruction, Kernel, entries, parse

TIERS = ("exact", "tf32", "bfloat16", "float16")


class Matrix(ctypes.Structure):
    """``jca_cuda_matrix``."""

    _fields_ = [("address", ctypes.c_uint64), ("strides", ctypes.c_int64 * 3)]


class TanhAttention(ctypes.Structure):
    """``jca_cuda_tanh_attention``."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("batch", "m", "l", "n", "d")),
        ("tier", ctypes.c_int32),
        ("shared_v", ctypes.c_int32),
        ("scale", ctypes.c_double),
        ("dropout_threshold", ctypes.c_int64),
        ("seed", ctypes.c_uint64),
        *((name, Matrix) for name in ("q", "k", "v", "out", "grad_out", "dq", "dk", "dv")),
        ("workspace", ctypes.c_uint64),
        ("workspace_size", ctypes.c_int64),
    ]


class JointAffinity(ctypes.Structure):
    """``jca_cuda_joint_affinity``."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("batch", "m", "l", "n")),
        ("tier", ctypes.c_int32),
        ("scale", ctypes.c_double),
        *((name, Matrix) for name in ("q", "k", "c", "grad_c", "dq", "dk")),
    ]


class ReleasedAttention(ctypes.Structure):
    """``jca_cuda_released_attention``."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("batch", "n", "d", "d_x")),
        ("tier", ctypes.c_int32),
        ("scale", ctypes.c_double),
        ("dropout_threshold", ctypes.c_int64),
        ("seed", ctypes.c_uint64),
        *((name, Matrix) for name in ("query", "key", "value", "out", "grad_out")),
        *((name, Matrix) for name in ("dquery", "dkey", "dvalue")),
        ("workspace", ctypes.c_uint64),
        ("workspace_size", ctypes.c_int64),
    ]


class VisualReduction(ctypes.Structure):
    """``jca_cuda_visual_reduction``."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("segments", "regions", "width")),
        ("tier", ctypes.c_int32),
        ("scale", ctypes.c_double),
        *((name, Matrix) for name in ("query", "keys", "weights", "out", "grad_out")),
        *((name, Matrix) for name in ("grad_weights", "dquery", "dkeys")),
        ("workspace", ctypes.c_uint64),
        ("workspace_size", ctypes.c_int64),
    ]


class LaunchPlan(ctypes.Structure):
    """``jca_cuda_launch_plan``."""

    _fields_ = [
        ("kernel", ctypes.c_int32),
        ("grid", ctypes.c_uint32 * 3),
        ("threads", ctypes.c_uint32),
        ("shared_bytes", ctypes.c_uint32),
        ("argument_bytes", ctypes.c_uint32),
        ("arguments", ctypes.c_ubyte * 4096),
    ]


class Plan(ctypes.Structure):
    """``jca_cuda_plan``."""

    _fields_ = [
        ("tier", ctypes.c_int32),
        ("count", ctypes.c_int32),
        ("workspace_size", ctypes.c_int64),
        ("launches", LaunchPlan * 4),
    ]


def problem() -> str:
    """Why no plan can be executed on this machine; "" where one can."""
    if not native.library_path().is_file():
        return "the CUDA library is not built"
    try:
        tool("cuobjdump")
    except FileNotFoundError as error:
        return str(error)
    return ""


@functools.cache
def kernels(tier: str) -> dict[str, Kernel]:
    """The kernels of a tier, from the PTX in the library."""
    return parse(ptx(tier))


def name_of(launch: LaunchPlan) -> str:
    """The name of the kernel of a launch."""
    return native.library().jca_cuda_kernel_name(launch.kernel).decode()


def plan_of(op: str, call: ctypes.Structure) -> tuple[int, Plan]:
    """The status and the plan of a call; ``op`` is tanh_attention_backward, for example."""
    plan = Plan()
    function = getattr(native.library(), f"jca_cuda_plan_{op}")
    return function(ctypes.byref(call), ctypes.byref(plan)), plan


def launches_of(*plans: Plan) -> list[tuple[str, tuple[int, ...]]]:
    """Kernel and grid of each launch."""
    return [(name_of(x), tuple(x.grid)) for plan in plans for x in plan.launches[: plan.count]]


def text_of(status: int) -> str:
    """What a status means."""
    return native.library().jca_cuda_status_string(status).decode()


@dataclass
class Call:
    """The sizes of a call, and its tensors by the names of its matrices."""

    values: TanhAttention | JointAffinity | ReleasedAttention | VisualReduction
    tensors: dict[str, Tensor]
    shared: tuple[str, ...] = ()
    """The names of those that all samples share."""
    seed: Tensor | None = None

    def place(self, addresses: dict[int, int]) -> None:
        """Put matrices at the addresses of their storages."""
        for name, t in self.tensors.items():
            start, strides = t.untyped_storage().data_ptr(), list(t.stride())
            if t.dim() == 2:  # a vector is a matrix of one row
                strides.insert(1, 0)
            if name in self.shared:
                strides[0] = 0
            address = addresses[start] + t.data_ptr() - start
            setattr(self.values, name, Matrix(address, (ctypes.c_int64 * 3)(*strides)))


def attention_call(
    tier: str, tensors: dict[str, Tensor], scale: float, p: float, seed: Tensor | None
) -> Call:
    q, k, v = (tensors[name] for name in "qkv")
    call = TanhAttention(
        batch=q.shape[0], m=q.shape[1], l=k.shape[1], n=q.shape[2], d=v.shape[2],
        tier=TIERS.index(tier), shared_v=int(v.shape[0] == 1), scale=scale,
        dropout_threshold=threshold(p),
    )  # fmt: skip
    return Call(call, tensors, ("v", "dv") if call.shared_v else (), seed)


def affinity_call(tier: str, tensors: dict[str, Tensor], scale: float) -> Call:
    q, k = tensors["q"], tensors["k"]
    sizes = dict(batch=q.shape[0], m=q.shape[1], l=k.shape[1], n=q.shape[2])
    return Call(JointAffinity(**sizes, tier=TIERS.index(tier), scale=scale), tensors)


def released_call(
    tier: str, tensors: dict[str, Tensor], scale: float, p: float, seed: Tensor | None
) -> Call:
    (batch, n, d), d_x = tensors["query"].shape, tensors["key"].shape[2]
    sizes = dict(batch=batch, n=n, d=d, d_x=d_x, tier=TIERS.index(tier))
    call = ReleasedAttention(**sizes, scale=scale, dropout_threshold=threshold(p))
    return Call(call, tensors, seed=seed)


def visual_call(tier: str, tensors: dict[str, Tensor], scale: float) -> Call:
    segments, regions, width = tensors["keys"].shape
    sizes = dict(segments=segments, regions=regions, width=width)
    return Call(VisualReduction(**sizes, tier=TIERS.index(tier), scale=scale), tensors)


class Device:
    """Executes plans; keeps findings and, of each kernel, which instructions have run."""

    def __init__(self, tier: str, options: Options | None = None) -> None:
        self.tier, self.options = tier, options or Options()
        self.findings = Findings()
        self.covered: dict[str, Array] = {}

    def tanh_attention(self, q: Tensor, k: Tensor, v: Tensor, *options) -> Tensor:
        out = poison(q.shape[0], q.shape[1], v.shape[2], like=q)
        self.run(
            "tanh_attention", attention_call(self.tier, dict(q=q, k=k, v=v, out=out), *options)
        )
        return out

    def tanh_attention_backward(self, grad_out: Tensor, q: Tensor, k: Tensor, v: Tensor, *options):
        # Transposed where x is, as in the released form; a sum over samples writes contiguous dv.
        grads = [torch.full_like(x, torch.nan) for x in (q, k, v)]
        if v.shape[0] == 1:
            grads[2] = poison(*v.shape, like=v)
        tensors = dict(zip(("dq", "dk", "dv"), grads, strict=True))
        tensors |= dict(q=q, k=k, v=v, grad_out=grad_out)
        self.run("tanh_attention_backward", attention_call(self.tier, tensors, *options))
        return grads

    def released_attention(self, query: Tensor, key: Tensor, value: Tensor, *options) -> Tensor:
        out = poison(*query.shape, like=query)
        tensors = dict(query=query, key=key, value=value, out=out)
        self.run("released_attention", released_call(self.tier, tensors, *options))
        return out

    def released_attention_backward(
        self, grad_out: Tensor, out: Tensor, query: Tensor, key: Tensor, value: Tensor, *options
    ):
        tensors = dict(query=query, key=key, value=value, out=out, grad_out=grad_out)
        grads = {f"d{name}": poison(*x.shape, like=x) for name, x in list(tensors.items())[:3]}
        call = released_call(self.tier, tensors | grads, *options)
        self.run("released_attention_backward", call)
        return list(grads.values())

    def joint_affinity(self, q: Tensor, k: Tensor, scale: float) -> Tensor:
        c = poison(q.shape[0], q.shape[1], k.shape[1], like=q)
        self.run("joint_affinity", affinity_call(self.tier, dict(q=q, k=k, c=c), scale))
        return c

    def joint_affinity_backward(self, grad_c: Tensor, q: Tensor, k: Tensor, c: Tensor, scale):
        dq, dk = (torch.full_like(x, torch.nan) for x in (q, k))  # transposed where x is
        tensors = dict(q=q, k=k, c=c, grad_c=grad_c, dq=dq, dk=dk)
        self.run("joint_affinity_backward", affinity_call(self.tier, tensors, scale))
        return [dq, dk]

    def visual_reduction(self, query: Tensor, keys: Tensor, scale: float) -> list[Tensor]:
        out, weights = poison(*query.shape, like=query), poison(*keys.shape[:2], like=query)
        tensors = dict(query=query, keys=keys, out=out, weights=weights)
        self.run("visual_reduction", visual_call(self.tier, tensors, scale))
        return [out, weights]

    def visual_reduction_backward(self, *arguments: Tensor | float | bool) -> list[Tensor]:
        *given, scale, need_keys = arguments
        names = "grad_out", "grad_weights", "query", "keys", "weights"
        tensors = dict(zip(names, given, strict=True))
        tensors["dquery"] = poison(*tensors["query"].shape, like=tensors["query"])
        if need_keys:
            tensors["dkeys"] = poison(*tensors["keys"].shape, like=tensors["keys"])
        self.run("visual_reduction_backward", visual_call(self.tier, tensors, scale))
        return [tensors[name] for name in ("dquery", "dkeys") if name in tensors]

    def run(self, op: str, call: Call) -> None:
        storages = {t.untyped_storage().data_ptr(): t for t in call.tensors.values()}
        call.place({start: start for start in storages})
        _, plan = plan_of(op, call.values)
        arena = Arena([*(_bytes(t).size for t in storages.values()), plan.workspace_size, 8])
        for own, t in zip(arena.buffers, storages.values(), strict=False):
            own[:] = _bytes(t)
        call.place(dict(zip(storages, arena.addresses, strict=False)))
        if hasattr(call.values, "workspace"):
            call.values.workspace = arena.addresses[-2]
            call.values.workspace_size = plan.workspace_size
        if call.seed is not None:
            arena.buffers[-1][:] = np.frombuffer(_int64(call.seed), np.uint8)
            call.values.seed = arena.addresses[-1]
        status, plan = plan_of(op, call.values)
        if status:
            raise ValueError(text_of(status))
        for launch in plan.launches[: plan.count]:
            self._execute(launch, arena)
        for t, own in zip(storages.values(), arena.buffers, strict=False):
            _bytes(t)[:] = own

    def _execute(self, plan: LaunchPlan, arena: Arena) -> None:
        name = name_of(plan)
        launch = Launch(
            kernels(self.tier)[name],
            tuple(plan.grid),
            plan.threads,
            plan.shared_bytes,
            bytes(plan.arguments)[: plan.argument_bytes],
            arena,
        )
        machine = Machine(launch, self.options, self.findings).run()
        self.covered[name] = self.covered.get(name, False) | machine.covered


def small_accesses(device: Device) -> dict[str, set[tuple[str, int]]]:
    """For each kernel, the loads and stores of less than 16 bytes of global memory that have run:
    ("ld", 8), for example.
    """
    found = {}
    for name, covered in device.covered.items():
        ran = [
            ins for ins, did in zip(kernels(device.tier)[name].code, covered, strict=True) if did
        ]
        found[name] = {
            (ins.parts[0], bytes_of(ins))
            for ins in ran
            if ins.parts[0] in ("ld", "st") and not {"shared", "param"} & {*ins.parts}
        } - {("ld", 16), ("st", 16)}
    return found


def bytes_of(ins: Instruction) -> int:
    """What a load or store moves for a thread."""
    registers = ins.operands[0 if ins.parts[0] == "ld" else 1]
    return WIDTHS[ins.parts[-1]] // 8 * len(entries(registers))


def poison(*shape: int, like: Tensor) -> Tensor:
    return torch.full(shape, float("nan"), dtype=like.dtype)


def _bytes(t: Tensor) -> Array:
    return torch.empty(0, dtype=torch.uint8).set_(t.untyped_storage()).numpy()


def _int64(seed: Tensor) -> bytes:
    return int(seed).to_bytes(8, "little", signed=True)
