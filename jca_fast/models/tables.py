"""The rows of the paper's Tables 2 to 5 as arguments of AVELocalizer, with the printed figures."""

from __future__ import annotations

from typing import Any, NamedTuple


class Row(NamedTuple):
    """One row of a table; its figures are those the paper prints."""

    label: str
    arguments: dict[str, Any] | None
    """Arguments of AVELocalizer besides ``FULL``; None for a model of other authors."""
    accuracy: float
    """Percent of the test segments."""
    parameters: str = ""
    """Millions; empty where the paper prints none."""


FULL: dict[str, Any] = {"joint": "concat_fc"}
"""The full model with 512 + 512 channels and four layers. Its J is "concatenation + FC" in
Table 4."""

TABLE_2 = (
    Row("audio only", {"modalities": "audio"}, 59.5),
    Row("visual only", {"modalities": "visual"}, 55.3),
    Row("ED-TCN", None, 46.9),
    Row("Audio-Visual", None, 71.4),
    Row("AVSDN", None, 72.6),
    Row("Full-Audio-Visual", None, 72.7),
    Row("DAM", None, 74.5),
    Row("joint co-attention", {}, 76.2),
)

TABLE_3 = (
    Row("without uni-modal Bi-LSTM", {"unimodal_rnn": False}, 74.5),
    Row("without joint Bi-LSTM", {"joint_rnn": False}, 74.9),
    Row("without residual embedding", {"residual": False}, 75.2),
    Row("with GRU", {"cell": "gru"}, 75.3),
    Row("with average pooling", {"pooling": "average"}, 75.1),
    Row("with max pooling", {"pooling": "max"}, 75.0),
    Row("with the original co-attention", {"joint": "cross"}, 75.4),
    Row("joint co-attention", {}, 76.2),
)

TABLE_4 = (
    Row("addition", {"joint": "add"}, 75.0, "22.67"),
    Row("multiplication", {"joint": "multiply"}, 74.6, "22.67"),
    Row("concatenation", {"joint": "concat"}, 75.2, "22.72"),
    Row("addition + FC", {"joint": "add_fc"}, 75.5, "22.78"),
    Row("multiplication + FC", {"joint": "multiply_fc"}, 75.3, "22.78"),
    Row("concatenation + FC", {"joint": "concat_fc"}, 76.2, "22.83"),
)


def _size(audio_dim: int, visual_dim: int, layers: int, accuracy: float, printed: str) -> Row:
    """A row of Table 5."""
    arguments = {"audio_dim": audio_dim, "visual_dim": visual_dim, "num_layers": layers}
    label = f"d_a = {audio_dim}, d_v = {visual_dim}, l = {layers}"
    return Row(label, arguments, accuracy, printed)


TABLE_5 = (
    _size(256, 1024, 4, 75.4, "50.7"),
    _size(512, 512, 1, 75.1, "14.9"),
    _size(512, 512, 2, 75.4, "17.5"),
    _size(512, 512, 3, 75.6, "20.1"),
    _size(512, 512, 4, 76.2, "22.8"),
    _size(512, 512, 5, 75.6, "25.4"),
    _size(256, 256, 2, 74.8, "4.6"),
    _size(256, 256, 3, 75.0, "5.2"),
    _size(256, 256, 4, 75.1, "5.9"),
    _size(256, 256, 5, 74.8, "6.6"),
    _size(128, 128, 4, 73.8, "1.6"),
)

TABLES: dict[int, tuple[Row, ...]] = {2: TABLE_2, 3: TABLE_3, 4: TABLE_4, 5: TABLE_5}
