"""Annotations.txt and the labels made from it."""

from __future__ import annotations

import hashlib

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jca_fast.atomic import replacing
from jca_fast.cli import main
from jca_fast.data import (
    BACKGROUND,
    CATEGORIES,
    Event,
    foreground_labels,
    mil_labels,
    read_annotations,
    segment_labels,
)
from jca_fast.data.files import write_h5


def write(path, text):
    path.write_bytes(text.encode())
    return path


def values(path, dataset="avadataset"):
    with h5py.File(path) as file:
        return file[dataset][:]


def same_bits(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def test_published_labels_are_rebuilt_bit_for_bit(shared):
    ave = shared / "data" / "ave"
    events = read_annotations(ave / "Annotations.txt")
    assert same_bits(segment_labels(events), values(ave / "labels.h5"))
    assert same_bits(mil_labels(events), values(ave / "mil_labels.h5"))
    assert same_bits(foreground_labels(events), values(ave / "labels_closs.h5"))


def test_categories_are_in_order_of_first_appearance(shared):
    events = read_annotations(shared / "data" / "ave" / "Annotations.txt")
    assert tuple(dict.fromkeys(event.category for event in events)) == CATEGORIES[:BACKGROUND]
    assert CATEGORIES[BACKGROUND] == "Background"


def test_command_writes_the_published_values_and_always_the_same_file(shared, tmp_path, capsys):
    ave = shared / "data" / "ave"
    names = ["labels.h5", "mil_labels.h5", "labels_closs.h5"]
    hashes = []
    for run in ("a", "b"):
        (tmp_path / run).mkdir()
        out, mil, foreground = (str(tmp_path / run / name) for name in names)
        args = [
            "data",
            "labels",
            str(ave / "Annotations.txt"),
            "-o",
            out,
            "--mil",
            mil,
            "--foreground",
            foreground,
        ]
        assert main(args) == 0
        hashes.append(
            [hashlib.sha256((tmp_path / run / name).read_bytes()).hexdigest() for name in names]
        )
    assert hashes[0] == hashes[1]
    for name in names:
        assert same_bits(values(tmp_path / "a" / name), values(ave / name))
    with h5py.File(tmp_path / "a" / "labels.h5") as file:
        assert file["avadataset"].chunks is None
    assert "(4143, 10, 29) float32" in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == sorted(
        names
    )  # no temporary file stays


events_of_ten = st.builds(
    lambda category, bounds: Event(category, "id", "good", min(bounds), max(bounds)),
    st.sampled_from(CATEGORIES[:BACKGROUND]),
    st.tuples(st.integers(0, 10), st.integers(0, 10)),
)


@given(st.lists(events_of_ten, min_size=1, max_size=5))
def test_label_rule_segment_by_segment(events):
    labels = segment_labels(events)
    clip = mil_labels(events)
    inside = foreground_labels(events)
    for i, event in enumerate(events):
        for t in range(10):
            held = event.start <= t <= event.end - 1
            expected = CATEGORIES.index(event.category) if held else BACKGROUND
            assert labels[i, t].tolist() == [float(c == expected) for c in range(29)]
            assert inside[i, t] == held
        assert clip[i].argmax() == CATEGORIES.index(event.category)
        assert clip[i].sum() == 1


@given(st.lists(events_of_ten, min_size=1, max_size=5))
def test_lines_read_back_as_written(tmp_path_factory, events):
    path = write(
        tmp_path_factory.mktemp("lines") / "A.txt", "\n".join(event.line() for event in events)
    )
    assert read_annotations(path) == events


@pytest.mark.parametrize("end", ["", "\n", "\r\n", "\n\n"])
@pytest.mark.parametrize("head", ["", "Category&VideoID&Quality&StartTime&EndTime\n", "\ufeff"])
def test_harmless_variants_of_the_file(tmp_path, head, end):
    path = write(tmp_path / "A.txt", f"{head}Bark&a_-1&good&0&10\nTruck&b&good&0&0{end}")
    assert read_annotations(path) == [
        Event("Bark", "a_-1", "good", 0, 10),
        Event("Truck", "b", "good", 0, 0),
    ]


def test_event_without_length_is_background_but_named_by_clip():
    events = [Event("Bark", "a", "good", 0, 0)]
    assert (segment_labels(events).argmax(axis=2) == BACKGROUND).all()
    assert mil_labels(events)[0].argmax() == CATEGORIES.index("Bark")


def test_other_categories_are_numbered_by_first_appearance():
    events = [Event("zebra", "a", "good", 0, 10), Event("ant", "b", "good", 0, 10)]
    assert segment_labels(events).shape == (2, 10, 3)
    assert segment_labels(events)[:, 0].argmax(axis=1).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("Bark&a&good&0", "4 fields"),
        ("Bark&a&good&0&10&x", "6 fields"),
        ("", "1 fields"),
        ("&a&good&0&10", "empty category"),
        ("Bark&&good&0&10", "empty category or video id"),
        ("Bark&a&good&-1&10", "start '-1'"),
        ("Bark&a&good&1.5&10", "start '1.5'"),
        ("Bark&a&good&x&10", "start 'x'"),
        ("Bark&a&good&7&3", "start 7, end 3"),
        ("Bark&a&good&0&11", "end 11; needed: start <= end <= 10"),
    ],
)
def test_bad_row_is_named_by_file_and_line(tmp_path, row, words):
    path = write(tmp_path / "A.txt", f"Bark&a&good&0&10\n{row}\nBark&a&good&0&10\n")
    with pytest.raises(ValueError, match=r"A\.txt, line 2: ") as caught:
        read_annotations(path)
    assert words in str(caught.value)


def test_missing_empty_and_binary_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file; needed: rows"):
        read_annotations(tmp_path / "none.txt")
    with pytest.raises(ValueError, match="no rows"):
        read_annotations(write(tmp_path / "empty.txt", "\n"))
    (tmp_path / "binary.txt").write_bytes(b"\x89HDF\xff\xfe")
    with pytest.raises(ValueError, match="not a UTF-8 text file"):
        read_annotations(tmp_path / "binary.txt")


def test_failed_command_leaves_the_old_file(tmp_path, capsys):
    annotations = write(tmp_path / "A.txt", "Bark&a&good&0&99\n")
    (tmp_path / "labels.h5").write_bytes(b"old")
    assert main(["data", "labels", str(annotations), "-o", str(tmp_path / "labels.h5")]) == 2
    assert "A.txt, line 1" in capsys.readouterr().err
    assert (tmp_path / "labels.h5").read_bytes() == b"old"
    assert np.array_equal(sorted(path.name for path in tmp_path.iterdir()), ["A.txt", "labels.h5"])


def test_file_is_replaced_in_one_step(tmp_path):
    path = write(tmp_path / "labels.h5", "old")
    with path.open("rb") as reader:  # of the old file, at any moment
        write_h5(path, avadataset=np.arange(3))
        assert reader.read() == b"old"
    assert values(path).tolist() == [0, 1, 2]
    with pytest.raises(ZeroDivisionError), replacing(path) as temporary:
        temporary.write_bytes(b"%d" % (1 // 0))
    assert values(path).tolist() == [0, 1, 2]
    assert [file.name for file in tmp_path.iterdir()] == ["labels.h5"]
    with pytest.raises(FileNotFoundError, match=r"nowhere: no such folder to write x.h5 into"):
        write_h5(tmp_path / "nowhere" / "x.h5", avadataset=np.arange(3))
