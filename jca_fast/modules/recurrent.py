"""The re-representation layer: a bidirectional recurrent network concatenated with its input."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from .checks import check_feature, check_like, check_positive, check_probability
from .lengths import Lengths, padding_mask, used_segments, zero_padding
from .linear import call_linear, reset_children, xavier_linear
from .plain import is_plain


class ResidualRNN(nn.Module):
    """Bidirectional LSTM or GRU with learned initial state and its input concatenated.

        y = Linear(dropout([x; rnn(x)]))        and with ``normalize``        y / max(|y|, 1e-12)

    Args:
        input_dim: width of x.
        dim: width of the output; each direction has dim / 2 units, so it must be even.
        num_layers: layers of the recurrent network.
        cell: "lstm" or "gru".
        dropout: between the layers of the network and on the concatenation.
        residual: concatenate the input; False omits it (ablation of Table 3).
        normalize: L2-normalise each output vector, as the released code does.
        device: the device of the parameters.
        dtype: the dtype of the parameters.

    Shapes:
        x (B, N, input_dim) -> (B, N, dim); any B and N, batch 0 included.

    ``init_hidden`` holds the initial states, one row of dim / 2 for each layer and direction
    (layer-major, forward before backward): first those of h, then for the LSTM those of c.

    Source: section 3.2, Eqs. 1-2 of Duan et al., WACV 2021; learned initial state from the
    released code.
    """

    def __init__(
        self,
        input_dim: int,
        dim: int,
        num_layers: int = 2,
        cell: str = "lstm",
        dropout: float = 0.0,
        residual: bool = True,
        normalize: bool = False,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_positive(input_dim=input_dim, dim=dim, num_layers=num_layers)
        check_probability(dropout=dropout)
        input_dim = int(input_dim)
        dim = int(dim)
        num_layers = int(num_layers)
        if dim % 2:
            raise ValueError(f"dim must be even, half for each direction; got {dim}")
        if cell not in ("lstm", "gru"):
            raise ValueError(f"cell must be 'lstm' or 'gru', got {cell!r}")
        factory: Any = {"device": device, "dtype": dtype}
        self.input_dim = input_dim
        self.dim = dim
        self.cell = cell
        self.residual, self.normalize = residual, normalize
        states = 2 if cell == "lstm" else 1
        self.init_hidden = nn.Parameter(torch.empty(states * 2 * num_layers, dim // 2, **factory))
        nn.init.xavier_uniform_(self.init_hidden)
        self.linear = xavier_linear(dim + input_dim if residual else dim, dim, **factory)
        between = dropout if num_layers > 1 else 0.0
        options: Any = {"batch_first": True, "dropout": between, "bidirectional": True}
        network = nn.LSTM if cell == "lstm" else nn.GRU
        self.rnn = network(input_dim, dim // 2, num_layers, **options, **factory)
        self.dropout = nn.Dropout(dropout)

    def reset_parameters(self) -> None:
        """Initialise all parameters afresh, the initial state included."""
        nn.init.xavier_uniform_(self.init_hidden)
        reset_children(self)

    def forward(
        self,
        x: Tensor,
        lengths: Lengths | None = None,
        key_padding_mask: Tensor | None = None,
    ) -> Tensor:
        """y (B, N, dim). With ``lengths`` (B,) or ``key_padding_mask`` (B, N), True in the padding,
        the result is that of the shorter clips without padding, and zero in the padding.
        """
        return self._represent("x", x, lengths, key_padding_mask)

    def _represent(
        self, name: str, x: Tensor, lengths: Lengths | None, key_padding_mask: Tensor | None
    ) -> Tensor:
        """y of the input x, which is ``name`` in errors."""
        check_feature(name, x, self.input_dim)
        check_like(name, x, self.init_hidden, "the weights")
        used = used_segments(lengths, key_padding_mask, x)
        x = zero_padding(x, used)
        y = self._run(x) if used is None else self._run_packed(x, used[..., 0])  # (B, N, dim)
        y = self.dropout(torch.cat((x, y), dim=-1) if self.residual else y)
        y = call_linear(self.linear, y)  # (B, N, dim)
        return zero_padding(F.normalize(y, dim=-1) if self.normalize else y, used)

    def _initial(self, batch: int) -> Tensor | tuple[Tensor, Tensor]:
        state = self.init_hidden[:, None].expand(-1, batch, -1).contiguous()  # (states, B, dim / 2)
        if self.cell == "gru":
            return state
        h, c = state.chunk(2)
        return h, c

    def _network(self, x: Any, state: Any) -> Any:
        """The recurrent network; in full precision on a CPU without one for autocast's dtype."""
        if x.data.device.type != "cpu" or _cpu_has_autocast_rnn():
            return self.rnn(x, state)
        with torch.autocast("cpu", enabled=False):
            return self.rnn(x.to(self.init_hidden.dtype), state)

    def _run(self, x: Tensor) -> Tensor:
        return self._network(x, self._initial(x.shape[0]))[0]

    def _run_packed(self, x: Tensor, used: Tensor) -> Tensor:
        """The recurrent network over the segments in use; both directions skip the padding."""
        batch, segments = used.shape
        order = (~used).long().argsort(dim=1, stable=True)[..., None]  # the segments in use first
        counts = used.sum(dim=1).clamp(min=1)  # an empty clip has one segment, of zeros
        front = x.gather(1, order.expand_as(x))
        if torch.compiler.is_exporting():
            y = self._run_directions(front, counts)
        elif batch:
            packed = pack_padded_sequence(
                front, counts.cpu(), batch_first=True, enforce_sorted=False
            )
            packed, _ = self._network(packed, self._initial(batch))
            y, _ = pad_packed_sequence(packed, batch_first=True, total_length=segments)
        else:  # packed sequences need a clip
            y = self._run(front)
        return y.gather(1, order.argsort(dim=1).expand_as(y))

    def _run_directions(self, x: Tensor, counts: Tensor) -> Tensor:
        """The recurrent network over the first ``counts`` (B,) segments, each direction by itself.

        An exported program has no packed sequences, because their sizes are numbers. The backward
        direction reads every clip reversed within its length, so that the padding comes last.
        """
        if not is_plain(self.rnn, nn.LSTM if self.cell == "lstm" else nn.GRU):
            raise RuntimeError(
                f"rnn must be an nn.{self.cell.upper()} without hooks, parametrizations or "
                f"quantisation to be exported with lengths, got {type(self.rnn).__name__}"
            )
        steps, last = torch.arange(x.shape[1], device=x.device), counts[:, None] - 1  # (N,), (B, 1)
        reverse = torch.where(steps <= last, last - steps, steps)[..., None]  # (B, N, 1)
        initial = self._initial(x.shape[0])
        states = [initial] if isinstance(initial, Tensor) else list(initial)  # (2 layers, B, d / 2)
        for layer in range(self.rnn.num_layers):
            halves = []
            for i in (2 * layer, 2 * layer + 1):
                h = x if i % 2 == 0 else x.gather(1, reverse.expand_as(x))
                y = self._run_direction(h, [state[i : i + 1] for state in states], i)
                halves.append(y if i % 2 == 0 else y.gather(1, reverse.expand_as(y)))
            x = torch.cat(halves, dim=-1)  # (B, N, dim)
            if layer + 1 < self.rnn.num_layers:
                x = F.dropout(x, self.rnn.dropout, self.training)
        return x

    def _run_direction(self, x: Tensor, states: list[Tensor], i: int) -> Tensor:
        """Layer and direction ``i`` of the recurrent network: (B, N, width) -> (B, N, dim / 2)."""
        weights: Any = self.rnn.all_weights[i]
        options = (True, 1, 0.0, self.training, False, True)  # biases, layers, ..., batch first
        if self.cell == "lstm":
            return torch.lstm(x, states, weights, *options)[0]
        return torch.gru(x, states[0], weights, *options)[0]

    def extra_repr(self) -> str:
        return (
            f"input_dim={self.input_dim}, dim={self.dim}, cell={self.cell!r}, "
            f"residual={self.residual}, normalize={self.normalize}"
        )


def call_recurrent(network: nn.Module, x: Tensor, used: Tensor | None) -> Tensor:
    """A network over the segments, :class:`ResidualRNN` or one that sees each segment alone.

    ``used`` (B, N, 1) marks the segments in use; only a recurrent network needs to know them, and
    a module around one.
    """
    if used is not None and any(hasattr(part, "init_hidden") for part in network.modules()):
        return network(x, **padding_mask(used))
    return call_linear(network, x)


def _cpu_has_autocast_rnn() -> bool:
    """Whether oneDNN has recurrent networks in the dtype of autocast on this processor."""
    if not torch.is_autocast_enabled("cpu"):
        return True
    if torch.get_autocast_dtype("cpu") is torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return bool(torch.ops.mkldnn._is_mkldnn_fp16_supported())
