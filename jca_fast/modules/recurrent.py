"""The re-representation layer: a bidirectional recurrent network with its input concatenated as a residual."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .checks import check_positive, check_probability
from .linear import xavier_linear


class ResidualRNN(nn.Module):
    """Bidirectional LSTM or GRU with learned initial state and residual embedding by concatenation.

        y = Linear(dropout([x; rnn(x)]))        and with ``normalize``        y / max(|y|, 1e-12)

    Args:
        input_dim: width of x.
        dim: width of the output; each direction has dim / 2 units, so it must be even.
        num_layers: layers of the recurrent network.
        cell: "lstm" or "gru".
        dropout: between the layers of the network and on the concatenation.
        residual: concatenate the input; False leaves it out (ablation of Table 3).
        normalize: L2-normalise each output vector, as the released code does.

    Shapes:
        x (B, N, input_dim) -> (B, N, dim); any B and N, batch 0 included.

    ``init_hidden`` holds the initial states, one row of dim / 2 for each layer and direction (layer-major, forward
    before backward): first those of h, then for the LSTM those of c.

    Source: section 3.2, Eqs. 1-2 of Duan et al., WACV 2021; learned initial state from the released code.
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
    ) -> None:
        super().__init__()
        check_positive(input_dim=input_dim, dim=dim, num_layers=num_layers)
        check_probability(dropout=dropout)
        if dim % 2:
            raise ValueError(f"dim must be even, half for each direction; got {dim}")
        if cell not in ("lstm", "gru"):
            raise ValueError(f"cell must be 'lstm' or 'gru', got {cell!r}")
        self.residual, self.normalize = residual, normalize
        states = 2 if cell == "lstm" else 1
        self.init_hidden = nn.Parameter(torch.empty(states * 2 * num_layers, dim // 2))
        nn.init.xavier_uniform_(self.init_hidden)
        self.linear = xavier_linear(dim + input_dim if residual else dim, dim)
        network = nn.LSTM if cell == "lstm" else nn.GRU
        between = dropout if num_layers > 1 else 0.0
        self.rnn = network(
            input_dim, dim // 2, num_layers, batch_first=True, dropout=between, bidirectional=True
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        state = (
            self.init_hidden[:, None].expand(-1, x.shape[0], -1).contiguous()
        )  # (states, B, dim / 2)
        initial = state if isinstance(self.rnn, nn.GRU) else state.chunk(2)
        y, _ = self.rnn(x, initial)  # (B, N, dim)
        y = self.linear(
            self.dropout(torch.cat((x, y), dim=-1) if self.residual else y)
        )  # (B, N, dim)
        return F.normalize(y, dim=-1) if self.normalize else y
