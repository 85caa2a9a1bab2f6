"""Published code whose weights look like those of a module here, but whose formula is another."""

from __future__ import annotations

from collections.abc import Mapping


class OtherFormulaError(ValueError):
    """The weights of published code with another formula, which no module here computes."""


def refuse_other_formulas(s: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse published weights that look like a CAM's, but belong to another formula."""
    rows, columns = s["affine_a.weight"]
    if rows != columns:
        raise OtherFormulaError(
            f"affine_a.weight is ({rows}, {columns}), not N x N: the weights of MICA-Net, or of "
            "code with its formula, whose joint feature is concatenated along the segments; no "
            "module of this library computes that"
        )
    if "reduce_visual.weight" in s:
        raise OtherFormulaError(
            "reduce_visual.weight beside the keys of CAM: the weights of AVER, whose formula is "
            "not that of CAM; docs/migrating.md rewrites its attention weights"
        )


AVER_ATTENTION = (
    "the attention alone does not show its formula; taken for that of CAM. AVER's has the same "
    "keys and shapes and another result; docs/migrating.md rewrites its weights"
)
AVER_HEADS = (
    "these weights fit CAM and AVER's cam.py, which has the same keys and another result: two "
    "regressors on the attended features, which no repository of CAM has; for a CAM pass the "
    "namespace of the repository that it was made from, such as "
    "repository='recurrentjointattentionwithlstms'; docs/migrating.md rewrites AVER's weights"
)
