"""Training, evaluation and prediction. Names are loaded on first use, so that importing this
package does not import torch.
"""

from __future__ import annotations

from jca_fast._lazy import names_of

_HOME = {
    "Config": "config",
    "Objective": "objective",
    "Trainer": "trainer",
    "evaluate_checkpoint": "inference",
    "load_model": "checkpoint",
    "run_training": "seeds",
}

__all__ = sorted(_HOME)
__getattr__, __dir__ = names_of(__name__, _HOME)
