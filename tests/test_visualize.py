"""Pictures of a checkpoint: their number and size, their content, and rejected input."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from jca_fast.cli import main
from jca_fast.data import synthesize
from jca_fast.models import AVELocalizer
from jca_fast.training import checkpoint, metrics
from jca_fast.visualize import visualize
from jca_fast.visualize.attention import draw_attention, hits
from jca_fast.visualize.clips import ClipSource, ClipView, read_frames
from jca_fast.visualize.fusion import MAX_CELLS, block_means, draw_maps, saturation
from jca_fast.visualize.style import RIGHT, WRONG, draw_weights, mark_peak, new_figure, outline
from jca_fast.visualize.timeline import draw_timeline

SEGMENTS = 4
DPI = 50


def save_model(path, **arguments):
    torch.manual_seed(0)
    common = {"audio_dim": 4, "visual_dim": 6, "num_layers": 2, "num_segments": SEGMENTS}
    model = AVELocalizer(
        audio_features=6, region_features=5, attention_dim=3, **common, **arguments
    )
    checkpoint.save(path, model)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A planted set in `data` and untrained models beside it."""
    root = tmp_path_factory.mktemp("visualize")
    synthesize(
        root / "data",
        num_clips=56,
        num_segments=SEGMENTS,
        audio_dim=6,
        visual_dim=5,
        dtype="float32",
    )
    save_model(root / "paper.pt")
    save_model(root / "released.pt", form="released")
    save_model(root / "audio.pt", modalities="audio")
    save_model(root / "pooled.pt", pooling="max")
    return root


@pytest.fixture
def source(folder):
    return ClipSource(checkpoint.load_model(folder / "paper.pt")[0], folder / "data", "test")


def make_frames(folder, names, size=(64, 36), color=(250, 20, 20)):
    folder.mkdir(parents=True)
    for name in names:
        Image.new("RGB", size, color).save(folder / name)
    return folder


def pixels(figure):
    """The figure as it would be saved, (height, width, 3) uint8."""
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3]


def plain_view(**more):
    """A clip of three segments, 2 x 3 regions, three classes."""
    values = {
        "row": 7,
        "video_id": "abc",
        "classes": ("Bark", "Violin, fiddle", "Background"),
        **more,
    }
    labels = {
        "target": np.array([2, 0, 0]),
        "predicted": np.array([2, 0, 1]),
        "audio_norm": np.array([1.0, 2.0, 3.0]),
    }
    return ClipView(**{**labels, **values})


def test_command_writes_three_pictures_for_each_clip(folder, tmp_path, capsys):
    out = tmp_path / "new" / "pictures"
    arguments = ["--data", str(folder / "data"), "--clips", "2", "--dpi", str(DPI), "-o", str(out)]
    assert main(["visualize", str(folder / "paper.pt"), *arguments]) == 0
    names = sorted(path.name for path in out.iterdir())
    assert [name.rsplit("_", 1)[1] for name in names] == [
        "attention.png",
        "maps.png",
        "timeline.png",
    ] * 2
    assert "6 pictures in" in capsys.readouterr().out
    for name in names:
        with Image.open(out / name) as image:
            image.load()
            assert image.format == "PNG"
            if "attention" in name:  # five panels of 1.7 inches and 1.3 inches for the colour bar
                assert image.width == round((5 * 1.7 + 1.3) * DPI)
            if "maps" in name:
                assert image.size == (round(12.5 * DPI), round((1.95 * 2 + 1.75) * DPI))


def test_released_form_and_run_folder(folder, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "best.pt").write_bytes((folder / "released.pt").read_bytes())
    paths = visualize(run, folder / "data", tmp_path / "out", clips="1", dpi=DPI, split="val")
    assert sorted(path.name.rsplit("_", 1)[1] for path in paths) == [
        "attention.png",
        "maps.png",
        "timeline.png",
    ]


@pytest.mark.parametrize(
    ("model", "kinds", "message"),
    [
        (
            "audio.pt",
            ["timeline"],
            "modalities='audio' has no attention and no fusion: time lines only",
        ),
        ("pooled.pt", ["maps", "timeline"], "pooling='max' has no attention over regions"),
    ],
)
def test_model_without_attention_still_draws_the_rest_and_says_so(
    folder, tmp_path, model, kinds, message
):
    said = []
    paths = visualize(
        folder / model, folder / "data", tmp_path / "out", clips="1", dpi=DPI, say=said.append
    )
    assert [path.stem.rsplit("_", 1)[1] for path in paths] == kinds
    assert message in said[0]


def test_picture_is_replaced_as_a_whole_or_not_at_all(folder, tmp_path, monkeypatch):
    (path,) = visualize(folder / "audio.pt", folder / "data", tmp_path, clips="1", dpi=DPI)
    before = path.read_bytes()

    def broken(figure, where, **style):
        where.write_bytes(b"half a picture")
        raise OSError("disk full")

    monkeypatch.setattr(Figure, "savefig", broken)
    with pytest.raises(OSError, match="disk full"):
        visualize(folder / "audio.pt", folder / "data", tmp_path, clips="1", dpi=DPI)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"clips": "0"}, "--clips 0: test has 1 to 8 clips"),
        ({"clips": "9"}, "--clips 9: test has 1 to 8 clips"),
        ({"clips": "nobody"}, "no clip 'nobody' in split 'test'; it has "),
        ({"dpi": 10}, "--dpi must be 50 to 600, got 10"),
        ({"split": "training"}, "split is 'training'"),
        ({"frames": "nowhere"}, "--frames nowhere: no such folder"),
        ({"data": "nowhere"}, "nowhere: no such folder"),
        ({"checkpoint": "nowhere.pt"}, "nowhere.pt: no such checkpoint"),
    ],
)
def test_wrong_argument_is_named_and_nothing_is_written(folder, tmp_path, arguments, message):
    given = {
        "checkpoint": folder / "paper.pt",
        "data": folder / "data",
        "out": tmp_path / "out",
        "dpi": DPI,
        **arguments,
    }
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        visualize(**given)
    assert message in str(error.value)
    assert not (tmp_path / "out").exists()


def test_command_reports_a_missing_frame_in_one_line(folder, tmp_path, source, capsys):
    clip = source.video_id(source.choose("1")[0])
    make_frames(tmp_path / "frames" / clip, ["0.png", "01.jpg", "3.jpeg"])
    arguments = [
        "--data",
        str(folder / "data"),
        "--clips",
        "1",
        "--frames",
        str(tmp_path / "frames"),
    ]
    assert (
        main(["visualize", str(folder / "paper.pt"), *arguments, "-o", str(tmp_path / "out")]) == 2
    )
    error = capsys.readouterr().err
    assert "no image of segment 2; needed: " in error
    assert error.count("\n") == 1


def test_frames_are_read_by_segment_number_and_reduced(tmp_path):
    folder = make_frames(
        tmp_path / "clip", ["01.JPG", "2.png", "000.jpeg", "poster.png"], size=(1000, 500)
    )
    Image.new("L", (10, 20), 77).save(folder / "03.png")
    frames = read_frames(folder, 4)
    assert [frame.shape for frame in frames] == [(180, 360, 3)] * 3 + [(20, 10, 3)]
    assert np.all(frames[3] == 77)


def test_bad_frames_are_refused(tmp_path):
    folder = make_frames(tmp_path / "clip", ["0.png", "00.jpg"])
    with pytest.raises(ValueError, match="a second image of segment 0"):
        read_frames(folder, 1)
    (folder / "00.jpg").unlink()
    (folder / "1.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"1\.png: not a readable image"):
        read_frames(folder, 2)
    with pytest.raises(FileNotFoundError, match="no such folder; needed: "):
        read_frames(tmp_path / "other", 2)


def test_frames_lie_bare_above_and_grey_under_the_attention(folder, tmp_path, source):
    index = source.choose("1")[0]
    make_frames(
        tmp_path / source.video_id(index), [f"{segment}.png" for segment in range(SEGMENTS)]
    )
    with_frames = ClipSource(source.model, folder / "data", "test", tmp_path)
    red = [
        (np.abs(pixels(draw(s.view(index))).astype(int) - (250, 20, 20)).max(axis=-1) < 12).mean()
        for draw in (draw_attention, draw_timeline)
        for s in (source, with_frames)
    ]
    assert red[0] == red[2] == 0
    assert 0.15 < red[1] < 0.5  # the bare frames, and they alone
    assert red[3] > 0.05


def test_choice_prefers_events_that_begin_or_end_inside_one_of_each_class(source):
    labels = source.dataset.labels.argmax(dim=-1).tolist()
    partial = [i for i, row in enumerate(labels) if len(set(row)) > 1]
    first = {min(labels[i]): i for i in reversed(partial)}  # background has the largest index
    expected = sorted(first.values())
    assert source.choose(str(len(expected))) == expected
    everything = source.choose("8")
    assert everything[: len(expected)] == expected
    assert sorted(everything) == list(range(8))


def test_clips_by_video_id_row_and_name_of_predict(source):
    rows = source.dataset.indices.tolist()
    names = f"{source.video_id(2)}, {rows[5]}:,{rows[0]}:{source.video_id(0)},{rows[2]}:"
    assert source.choose(names) == [2, 5, 0]


def test_view_agrees_with_model_and_data(folder, source):
    view = source.view(3)
    audio, visual, labels = source.dataset[3]
    with torch.no_grad():
        scores, maps = source.model(audio[None], visual[None], return_maps=True)
    assert view.row == source.dataset.indices[3]
    assert np.array_equal(view.target, labels.argmax(dim=-1))
    assert np.array_equal(view.predicted, scores[0].argmax(dim=-1))
    assert np.array_equal(view.attention.reshape(SEGMENTS, 49), maps["visual_attention"][0])
    assert np.allclose(view.audio_norm, np.linalg.norm(audio.numpy(), axis=-1))
    assert [layer["C"][1].shape for layer in view.layers] == [(6, 10)] * 2
    assert [layer["H"][0].shape for layer in view.layers] == [(3, 4)] * 2


def test_hits_are_those_of_the_pointing_game(source):
    views = [source.view(i) for i in range(8)]
    counted = [hits(view) for view in views]
    game = metrics.PointingGame()
    for view in views:
        attention, position = (
            torch.from_numpy(x.reshape(1, SEGMENTS, 49)) for x in (view.attention, view.position)
        )
        game += metrics.pointing_game(attention, position, torch.from_numpy(view.audible)[None])
    assert (sum(c[0] for c in counted), sum(c[1] for c in counted)) == (game.hits, game.segments)
    assert hits(plain_view()) is None


def test_hits_count_only_segments_where_the_object_is_heard_and_seen():
    attention, position = np.zeros((3, 2, 2)), np.zeros((3, 2, 2), dtype=bool)
    attention[:, 0, 1] = 1
    position[:2, 0, 1] = True  # heard and seen, seen but silent, heard but not seen
    view = plain_view(attention=attention, position=position, audible=np.array([True, False, True]))
    assert hits(view) == (1, 1)


def test_attention_over_a_frame_is_clearest_where_it_is_largest_and_the_frame_is_grey():
    axes = new_figure(3, 3).subplots()
    frame = np.zeros((4, 6, 3), dtype=np.uint8)
    frame[..., 1] = 200
    weights = np.array([[0.0, 0.1], [0.2, 0.4]])
    image = draw_weights(axes, weights, 0.4, (0, 1, 0, 1), frame)
    below, alpha = axes.images[0], image.get_alpha()
    assert below.get_array().shape == (4, 6)
    assert np.allclose(below.get_array(), 0.587 * 200)
    assert image.get_clim() == (0, 0.4)
    assert np.all(np.diff(alpha.ravel()) > 0)
    assert 0 < alpha.min() < alpha.max() < 1


def test_planted_object_is_outlined_at_its_place():
    axes = new_figure(3, 3).subplots()
    cells = np.zeros((7, 7), dtype=bool)
    cells[0, 4:7] = cells[1, 6] = True  # the upper right corner
    outline(axes, cells, (0, 1, 0, 1), solid=True)
    points = np.concatenate([path.vertices for path in axes.collections[0].get_paths()])
    assert len(axes.collections[0].get_paths()) == 10
    assert np.allclose(points.min(axis=0), (4 / 7, 5 / 7))
    assert np.allclose(points.max(axis=0), (1, 1))


def test_cross_marks_the_largest_weight_with_row_0_on_top():
    axes = new_figure(3, 3).subplots()
    weights = np.zeros((2, 4))
    weights[0, 3] = 1
    mark_peak(axes, weights, (0, 4, 0, 2))
    assert np.allclose(axes.lines[0].get_xydata(), [[3.5, 1.5]])


def test_time_line_colours_right_and_wrong_runs():
    figure = draw_timeline(plain_view())
    predicted = next(axes for axes in figure.axes if axes.get_ylabel() == "predicted")
    blocks = [patch for patch in predicted.patches if isinstance(patch, Rectangle)]
    runs = [(round(p.get_x()), round(p.get_x() + p.get_width()), p.get_facecolor()) for p in blocks]
    assert runs == [(0, 1, to_rgba(RIGHT)), (1, 2, to_rgba(RIGHT)), (2, 3, to_rgba(WRONG))]
    texts = [text.get_text().replace("\N{NO-BREAK SPACE}", " ") for text in predicted.texts]
    assert texts == ["✓ bg", "✓ Bark", "✗ Violin"]
    assert figure.texts[0].get_text() == "Bark  (clip abc): 2 of 3 segments right"


@pytest.mark.parametrize("count", [1, 10, 40])
def test_labels_of_the_time_line_stay_inside_their_blocks(count):
    classes = ("Female speech, woman speaking", "Rodents, rats, mice", "Background")
    labels = np.arange(count) % 3
    figure = draw_timeline(
        plain_view(
            classes=classes, target=labels, predicted=(labels + 1) % 3, audio_norm=np.ones(count)
        )
    )
    renderer = figure.canvas.get_renderer()
    for axes in figure.axes[-2:]:
        for block, text in zip(axes.patches, axes.texts, strict=True):
            box, inner = block.get_window_extent(renderer), text.get_window_extent(renderer)
            assert inner.x0 >= box.x0
            assert inner.x1 <= box.x1
            assert inner.height <= box.height * 1.05


def test_saturation_counts_each_layer_and_modality():
    c = (np.array([[1.0, -0.96], [0.95, 0.0]]), np.zeros((2, 2)))
    h = (np.array([[0.0, 0.0, 0.0, 2.0]]), np.ones((1, 4)))
    assert saturation([{"C": c, "H": h}]) == [{"C_a": 0.5, "C_v": 0.0, "H_a": 0.75, "H_v": 0.0}]


def test_large_maps_are_drawn_as_block_means_and_the_title_says_so():
    values = np.arange(2 * 600, dtype=np.float64).reshape(2, 600)
    reduced = block_means(values)
    assert reduced.shape == (2, 200)
    assert np.allclose(reduced[0, :2], [1, 4])
    assert block_means(np.ones((1, MAX_CELLS + 1))).shape == (1, 129)  # the last block is smaller
    assert np.all(block_means(np.ones((1, MAX_CELLS + 1))) == 1)
    layer = {"C": (values / 1200, values / 1200), "H": (np.ones((2, 3)), np.ones((2, 3)))}
    assert (
        "drawn as means over blocks: $C_a$ 1 × 3"
        in draw_maps(plain_view(layers=[layer])).get_suptitle()
    )


def test_affinities_share_one_symmetric_scale():
    layers = [
        {"C": (np.full((2, 2), a), np.full((2, 2), b)), "H": (np.ones((2, 2)),) * 2}
        for a, b in [(0.1, -0.4), (0, 0.2)]
    ]
    figure = draw_maps(plain_view(layers=layers))
    limits = {
        axes.images[0].get_clim()
        for axes in figure.axes[:8]
        if axes.images[0].cmap.name == "RdBu_r"
    }
    assert limits == {(-0.4, 0.4)}
