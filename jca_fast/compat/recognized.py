"""The module that a state_dict belongs to, and the choice of its class."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from . import REPOSITORIES, abaw8, cam, spiro
from .published_sizes import Sized

WRAPPERS = ("_orig_mod", "module")  # of torch.compile and of DataParallel, DDP and AveragedModel


def short_name(name: str) -> str:
    """The name of a weight or a module without wrappers, at any position in it."""
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


@dataclass(frozen=True)
class Recognized:
    """The module of a state_dict: its ``name`` and ``sizes`` as text; :meth:`build` makes it.

    ``sized`` has its class and what to ask or to note about it. ``prefix`` begins every key of the
    module in the state_dict. ``others`` are the keys of a larger model around it. ``names`` gives
    for each key of the module its key in the state_dict. ``takes_query`` is True only for layers of
    two modalities, which use ``query_linear`` or do not.
    """

    name: str
    sized: Sized
    prefix: str = ""
    others: tuple[str, ...] = ()
    names: dict[str, str] = field(default_factory=dict)
    takes_query: bool = False

    @property
    def inner_prefix(self) -> str:
        """``prefix`` without wrappers."""
        key, name = next(iter(self.names.items()))
        return short_name(name).removesuffix(key)

    @property
    def sizes(self) -> str:
        return self.sized.text

    @property
    def asks(self) -> bool:
        """Whether other published code has the same keys and shapes, so that loading asks."""
        return bool(self.sized.question)

    def build(self, use_query: bool | None = None, repository: str | None = None) -> nn.Module:
        """The module with new weights; the arguments are those of :func:`.from_state_dict`."""
        options = {} if use_query is None else {"use_query": use_query}
        if repository is None:
            return self.sized.make(self._class(use_query), **options)
        cls = class_of(repository, self.sized.cls, self.name)
        refusal = f"repository {repository!r} has no {self.name} of these weights"
        try:
            model = self.sized.make(cls, **options)
        except TypeError as error:  # its constructor lacks an option
            raise ValueError(refusal) from error
        if _shapes(model) != _shapes(self.sized.make(self.sized.cls)):
            raise ValueError(refusal)
        return model

    def _class(self, use_query: bool | None) -> type[nn.Module]:
        """The class without a repository: where both forms are published, the one asked for."""
        if not self.takes_query or not self.asks or use_query is None:
            return self.sized.cls
        return getattr(abaw8 if use_query else spiro, self.sized.cls.__name__)

    def __str__(self) -> str:
        under = f"; keys under {self.prefix!r}" if self.prefix else ""
        around = f"; {len(self.others)} tensors of the larger model around it"
        return f"{self.name}: {self.sizes}{under}{around if self.others else ''}"


def _shapes(model: nn.Module) -> dict[str, torch.Size]:
    return {key: value.shape for key, value in model.state_dict().items()}


def class_of(repository: str, cls: type[nn.Module], name: str) -> type[nn.Module]:
    """The class in the namespace of a repository that is ``cls`` or extends it."""
    if repository not in REPOSITORIES:
        raise ValueError(f"repository must be one of {', '.join(REPOSITORIES)}; got {repository!r}")
    namespace = importlib.import_module(f"{__package__}.{repository}")
    for attribute in ("PaperCAM", "CAM") if cls is cam.CAM else (cls.__name__,):
        found = getattr(namespace, attribute, None)
        if isinstance(found, type) and issubclass(found, cls):
            return found
    raise ValueError(f"repository {repository!r} has no {name}")


def load_recognized(
    state_dict: Mapping[str, Tensor],
    found: Recognized,
    use_query: bool | None = None,
    repository: str | None = None,
) -> nn.Module:
    """The module ``found`` with copies of its tensors; arguments of :func:`.from_state_dict`."""
    if use_query is not None and not found.takes_query:
        raise ValueError(f"use_query is for layers of two modalities alone; found {found.name}")
    if use_query is None and repository is None:
        if found.asks:
            raise ValueError(found.sized.question)
        if found.sized.caution:
            logging.getLogger("jca_fast").warning("%s: %s", found, found.sized.caution)
    with torch.device("meta"):
        model = found.build(use_query, repository)
    weights = {}
    for key, expected in model.state_dict().items():
        name = found.names[key]
        value = state_dict[name]
        if value.is_floating_point() != expected.is_floating_point():
            raise ValueError(f"{name} holds {value.dtype}, expected numbers like {expected.dtype}")
        weights[key] = value.detach().clone(memory_format=torch.contiguous_format)
    model.load_state_dict(weights, strict=True, assign=True)
    return model.eval()
