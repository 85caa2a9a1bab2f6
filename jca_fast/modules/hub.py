"""``save_pretrained`` and ``from_pretrained``: folders of config.json and model.safetensors.

``PyTorchModelHubMixin`` of huggingface_hub does the work. It is imported when one of the methods is
called: ``pip install "jca-fast[hub]"``.
"""

from __future__ import annotations

import copy
import functools
import types
from pathlib import Path
from typing import Any, Self

from torch import nn


class Pretrained(nn.Module):
    """A module that is saved to and loaded from a folder; ``config`` holds its constructor
    arguments.
    """

    config: dict[str, Any]

    def save_pretrained(self, save_directory: str | Path, **options: Any) -> str | None:
        """Write config.json, model.safetensors and a model card into a folder.

        ``options`` are those of huggingface_hub, such as ``push_to_hub=True, repo_id=...``, which
        also uploads and returns the address. Raises ImportError without huggingface_hub.
        """
        return self._for_hub().save_pretrained(save_directory, **options)

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Upload the same files to a repository of the Hugging Face Hub; returns the address."""
        return self._for_hub().push_to_hub(repo_id, **options)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **options: Any) -> Self:
        """The module of a local folder, or of a repository of the Hugging Face Hub, in eval mode.

        A local folder needs no network. ``options`` are those of huggingface_hub
        (``map_location``, ``revision``, ``local_files_only``, ...) and constructor arguments, which
        override config.json.

        Raises:
            ImportError: huggingface_hub is not installed.
            FileNotFoundError: a local folder has no config.json or no model.safetensors.
        """
        hub_class = _hub_class(cls)
        folder = Path(pretrained_model_name_or_path)
        if folder.is_dir():
            for name in ("config.json", "model.safetensors"):
                if not (folder / name).is_file():
                    needed = f"needed by {cls.__name__}.from_pretrained"
                    raise FileNotFoundError(f"{folder / name}: no such file; {needed}")
        model = hub_class.from_pretrained(str(pretrained_model_name_or_path), **options)
        model.__class__ = cls
        del model._hub_mixin_config
        return model

    def _for_hub(self) -> Any:
        """This module, sharing all tensors, with the methods of huggingface_hub."""
        model: Any = copy.copy(self)
        model.__class__ = _hub_class(type(self))
        model._hub_mixin_config = self.config
        return model


def _make_hub_class(cls: type[nn.Module]) -> Any:
    """A subclass of ``cls`` in which the methods of huggingface_hub take precedence."""
    try:
        from huggingface_hub import PyTorchModelHubMixin
    except ImportError as error:
        raise ImportError(
            "save_pretrained, from_pretrained and push_to_hub need huggingface_hub: "
            'pip install "jca-fast[hub]"'
        ) from error
    body = {"__module__": cls.__module__, "__doc__": cls.__doc__}
    bases = (PyTorchModelHubMixin, cls)
    options: Any = {"library_name": "jca_fast", "tags": ["audio-visual", "joint-co-attention"]}
    return types.new_class(cls.__name__, bases, options, lambda names: names.update(body))


_hub_class: Any = functools.cache(_make_hub_class)  # one subclass for each class
