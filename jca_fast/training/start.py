"""The start of a run: its training split, its model and the baseline that it must beat."""

from __future__ import annotations

from jca_fast.data.ave import AVEDataset
from jca_fast.data.cache import find_cache
from jca_fast.data.files import exists
from jca_fast.data.record import read_record, require_same_features
from jca_fast.models import AVELocalizer
from jca_fast.training import checkpoint
from jca_fast.training.config import Config
from jca_fast.training.metrics import majority_baseline
from jca_fast.training.objective import build_model, inherited


def training_set(config: Config) -> AVEDataset:
    """The training split with the labels that config.supervision selects."""
    if config.supervision == "full":
        return AVEDataset(config.data, "train")
    noisy = exists(find_cache(config.data), "audio_feature_noisy")
    return AVEDataset(config.data, "train", weak=True, noisy=noisy)


def start_model(config: Config, dataset: AVEDataset) -> AVELocalizer:
    """A new model for the data, with the weights of config.init if given.

    Raises ValueError if those weights were trained on features of another extraction.
    """
    if not config.init:
        return build_model(config.model, dataset)
    source, record = checkpoint.load_initial(config.init)
    require_same_features(config.init, record, config.data, read_record(config.data))
    model = build_model({**inherited(source.config), **config.model}, dataset)
    checkpoint.copy_weights(model, source, config.init)
    return model


def baseline(train_set: AVEDataset, val_set: AVEDataset) -> float:
    """Accuracy on the validation split of always predicting the most frequent class.

    The class comes from the training labels, or with weak supervision from the validation labels.
    """
    reference = None if train_set.weak else train_set.labels.argmax(dim=-1)
    return majority_baseline(val_set.labels.argmax(dim=-1), reference)


def explain_loss(dataset: AVEDataset) -> str:
    """The reason for a loss that is not finite: a clip with such values, or else advice."""
    for index in range(len(dataset)):
        for name, values in zip(("audio", "visual"), dataset[index], strict=False):
            if not values.isfinite().all():
                clip = dataset.clip_name(index)
                return f"the {name} features of {dataset.split} clip {clip} are not finite"
    return "a smaller lr or clip_norm may help"
