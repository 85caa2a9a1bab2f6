"""Settings of a pickled module that a state_dict does not hold: dropout rates and options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from ..modules.checks import check_probability
from . import REPOSITORIES
from .layers import PublishedStack
from .recognized import Recognized, short_name
from .released import PredictLayer
from .torch_file import InertObject

_SETTINGS: tuple[tuple[type[nn.Module], str, type], ...] = (
    (nn.Dropout, "p", float),
    (nn.RNNBase, "dropout", float),
    (PredictLayer, "squeeze", bool),
    (PublishedStack, "return_all", bool),
)
_DENSE = ("", "dense_coattn.", "dcn_layers.0.dense_coattn.")


class PickledSettings:
    """The settings of the module ``found`` among the pickled ``modules`` of a file, by name."""

    def __init__(self, modules: Mapping[str, InertObject], found: Recognized) -> None:
        self._modules = {short_name(name): module for name, module in modules.items()}
        self._found = found

    def form(self) -> dict[str, Any]:
        """``use_query`` and ``repository``, as far as the file tells them.

        Only the classes of this library do; published ones have the same names in all repositories.
        """
        place = self._modules.get(self._found.inner_prefix)
        package, _, rest = (place.class_path if place else "").partition("jca_fast.compat.")
        namespace = rest.partition(".")[0]
        told: dict[str, Any] = {}
        if not package and namespace in REPOSITORIES:
            told["repository"] = namespace
        if self._found.takes_query:
            queries = [self._value(name, "use_query", bool) for name in _DENSE]
            told["use_query"] = next((query for query in queries if query is not None), None)
        return told

    def apply(self, model: nn.Module) -> None:
        """Give ``model`` the dropout rates and options of the file."""
        for name, module in model.named_modules():
            place = f"{name}." if name else ""
            for cls, key, kind in _SETTINGS:
                value = self._value(place, key, kind) if isinstance(module, cls) else None
                if value is None or (key == "dropout" and module.num_layers == 1):
                    continue
                if kind is float:
                    check_probability(**{f"{place}{key}": value})
                setattr(module, key, value)

    def _value(self, name: str, key: str, kind: type) -> Any:
        """The setting ``key`` of a module, or None if the file does not have it."""
        place = self._modules.get(self._found.inner_prefix + name)
        value = place.state.get(key) if place else None
        if kind is float and type(value) is int:
            return float(value)
        return value if type(value) is kind else None
