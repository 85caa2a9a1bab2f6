"""Decoding: pictures by time stamp, sound at its time, clear errors for unusable files."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

av = pytest.importorskip("av", reason="PyAV is not installed")
pytest.importorskip("soxr", reason="soxr is not installed")

from video_tools import grey, make_video, pitch, tone  # noqa: E402

from jca_fast.video.decode import VideoError, VideoReader  # noqa: E402


def read(path, **settings):
    reader = VideoReader(path, frames_per_segment=settings.pop("frames", 4), size=32, **settings)
    return list(reader.segments())


def levels(segments) -> np.ndarray:
    """Mean grey level of every chosen picture."""
    return np.concatenate([s.pictures.mean(axis=(1, 2, 3)) for s in segments])


def expected(times, middles) -> np.ndarray:
    """The level shown at each middle: that of the last frame before it, or of the first one."""
    times = np.asarray(times)
    shown = [times[max(0, np.searchsorted(times, t, "right") - 1)] for t in middles]
    return np.array([grey(t) for t in shown])


def test_pictures_and_sound_of_each_second(tmp_path):
    segments = read(make_video(tmp_path / "a.mp4", 3.0))
    assert len(segments) == 3
    assert segments[0].pictures.shape == (4, 32, 32, 3)
    assert segments[0].pictures.dtype == np.uint8
    middles = (np.arange(12) + 0.5) / 4
    np.testing.assert_allclose(levels(segments), expected(np.arange(30) / 10, middles), atol=2.0)
    for second, segment in enumerate(segments):
        assert segment.sound.shape == (16000,)
        assert segment.sound.dtype == np.float32
        assert abs(pitch(segment.sound) - tone(second)) < 3


@pytest.mark.parametrize("name", ["vfr.mp4", "vfr.mkv"])
def test_frames_are_chosen_by_time_stamp(tmp_path, name):
    """A variable frame rate: counting frames would choose others."""
    times = [0.0, 0.04, 0.08, 0.12, 0.9, 1.0, 1.5, 1.52, 1.54, 2.9, 2.95]
    segments = read(make_video(tmp_path / name, 3.0, times=times))
    middles = (np.arange(len(segments) * 4) + 0.5) / 4
    np.testing.assert_allclose(levels(segments), expected(times, middles), atol=2.0)


def test_frames_out_of_order_in_the_file(tmp_path):
    path = make_video(tmp_path / "b.mp4", 3.0, codec_options={"bf": "3", "g": "30"})
    with av.open(str(path)) as container:
        stamps = [packet.pts for packet in container.demux(video=0) if packet.pts is not None]
    assert stamps != sorted(stamps), "the file has no B-frames"
    middles = (np.arange(12) + 0.5) / 4
    np.testing.assert_allclose(levels(read(path)), expected(np.arange(30) / 10, middles), atol=2.0)


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_rotation(tmp_path, rotation):
    def corner(time):
        image = np.full((64, 96, 3), 20, np.uint8)
        image[:32, :48] = 220
        return image

    plain = read(make_video(tmp_path / "plain.mp4", 1.0, picture=corner))[0].pictures[0]
    turned = read(make_video(tmp_path / "turned.mp4", 1.0, picture=corner, rotation=rotation))
    difference = np.rot90(plain, rotation // 90) - turned[0].pictures[0].astype(float)
    assert np.abs(difference).mean() < 3


@pytest.mark.parametrize("channels", [1, 2, 6, 8])
@pytest.mark.parametrize("rate", [8000, 44100, 48000])
def test_channels_and_rates(tmp_path, channels, rate):
    path = make_video(
        tmp_path / "a.mkv", 2.0, codec="mpeg4", audio="pcm_s16le", rate=rate, channels=channels
    )
    segments = read(path)
    assert len(segments) == 2
    for second, segment in enumerate(segments):
        assert abs(pitch(segment.sound) - tone(second)) < 3
        assert abs(np.abs(segment.sound).max() - 0.3) < 0.03


def test_eight_planes(tmp_path):
    """AAC decodes to one plane for each channel."""
    path = make_video(tmp_path / "a.mp4", 2.0, rate=48000, channels=8)
    for second, segment in enumerate(read(path)[:2]):
        assert abs(pitch(segment.sound) - tone(second)) < 3


@pytest.mark.parametrize("audio", ["pcm_u8", "pcm_s32le", "pcm_f32le", "flac", "libopus", "mp3"])
def test_sample_formats(tmp_path, audio):
    path = make_video(tmp_path / "a.mkv", 2.0, codec="mpeg4", audio=audio, rate=48000)
    for second, segment in enumerate(read(path)[:2]):
        assert abs(pitch(segment.sound) - tone(second)) < 3
        assert abs(np.abs(segment.sound[2000:-2000]).max() - 0.3) < 0.04


@pytest.mark.parametrize("name", ["a.ts", "a.mkv"])
def test_time_zero_is_the_earliest_start(tmp_path, name):
    segments = read(make_video(tmp_path / name, 3.0, start=7.3, audio="mp2", rate=32000))
    assert len(segments) == 3
    middles = (np.arange(12) + 0.5) / 4
    np.testing.assert_allclose(levels(segments), expected(np.arange(30) / 10, middles), atol=2.5)
    assert abs(pitch(segments[1].sound) - tone(1)) < 3


def test_sound_that_begins_later_is_silent_before(tmp_path):
    path = make_video(
        tmp_path / "a.mkv", 3.0, audio="pcm_s16le", audio_start=1.0, audio_seconds=2.0
    )
    first, second, third = read(path)
    assert np.abs(first.sound).max() == 0
    assert abs(pitch(second.sound) - tone(0)) < 3
    assert abs(pitch(third.sound) - tone(1)) < 3


def test_the_longer_stream_decides(tmp_path):
    segments = read(make_video(tmp_path / "a.mkv", 3.0, audio="pcm_s16le", audio_seconds=1.2))
    assert len(segments) == 3
    assert not segments[2].sound.any()
    assert abs(pitch(segments[1].sound[:3200]) - tone(1)) < 6  # the fifth of a second that exists
    segments = read(make_video(tmp_path / "b.mkv", 3.0, times=[0.0, 0.95, 1.1], audio="pcm_s16le"))
    assert len(segments) == 3
    expect = expected([0.0, 0.95, 1.1], (np.arange(12) + 0.5) / 4)
    np.testing.assert_allclose(levels(segments), expect, atol=2.0)


@pytest.mark.parametrize(("seconds", "count"), [(0.2, 1), (1.4, 1), (1.6, 2), (2.0, 2)])
def test_the_last_part_counts_from_half_a_segment_on(tmp_path, seconds, count):
    path = make_video(tmp_path / "a.mkv", seconds, audio="pcm_s16le")
    assert len(read(path)) == count


def test_segments_of_another_length(tmp_path):
    path = make_video(tmp_path / "a.mkv", 3.0, audio="pcm_s16le")
    segments = read(path, segment_seconds=0.5, frames=2)
    assert len(segments) == 6
    assert segments[0].sound.shape == (8000,)
    middles = (np.arange(12) + 0.5) / 4
    np.testing.assert_allclose(levels(segments), expected(np.arange(30) / 10, middles), atol=2.0)


def test_cover_art_is_no_video(tmp_path):
    path = make_video(tmp_path / "a.mka", 2.0, video=False, audio="pcm_s16le")
    with pytest.raises(VideoError, match=r"a\.mka: no video stream"):
        VideoReader(path)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda p: None, "no such file"),
        (lambda p: p.touch(), "the file is empty"),
        (lambda p: p.write_bytes(b"no video at all " * 99), "not a readable video"),
        (lambda p: make_video(p, 1.0, audio=None), "no audio stream"),
    ],
)
def test_what_cannot_be_used(tmp_path, make, text):
    path = tmp_path / "some.mp4"
    make(path)
    with pytest.raises(VideoError, match=rf"some\.mp4: {text}"):
        VideoReader(path)


def test_truncated(tmp_path):
    path = make_video(tmp_path / "a.mp4", 8.0, options={"movflags": "faststart"})
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(VideoError, match="truncated"):
        read(path)


def test_an_empty_packet_repeats_the_picture(tmp_path):
    """Ogg and NUT files have them where the picture does not change."""
    made, path = (
        make_video(tmp_path / "a.mkv", 3.0, codec="mpeg4", audio="flac"),
        tmp_path / "a.nut",
    )
    with av.open(str(made)) as source, av.open(str(path), "w") as target:
        streams = [target.add_stream_from_template(stream) for stream in source.streams]
        for number, packet in enumerate(source.demux(video=0)):
            if packet.dts is not None:
                new = packet if number % 2 == 0 else av.Packet(b"")
                new.pts, new.dts, new.time_base = packet.pts, packet.dts, packet.time_base
                new.stream = streams[0]
                target.mux(new)
        source.seek(0)
        for packet in source.demux(audio=0):
            packet.stream = streams[1]
            target.mux(packet) if packet.dts is not None else None
    reader = VideoReader(path, frames_per_segment=4, size=32)
    assert levels(reader.segments()).shape == (12,)
    assert reader.damaged == 0


def test_time_that_starts_again_is_not_lost(tmp_path):
    """Two recordings in one file: the second one would disappear behind the first one."""
    path = make_video(tmp_path / "a.ts", 2.0, audio="mp2", rate=32000)
    path.write_bytes(2 * path.read_bytes())
    with pytest.raises(
        VideoError, match=r"a\.ts: \d+ of \d+ packets are damaged or have a wrong time"
    ):
        read(path)


def test_a_stream_that_begins_in_the_middle(tmp_path, monkeypatch):
    """PyAV reads beyond its list of streams at the end of such a file and may raise IndexError."""
    path = make_video(tmp_path / "a.mkv", 2.0, audio="pcm_s16le")
    whole = VideoReader._open

    def opened(self):
        container = whole(self)

        def demux(stream):
            yield from container.demux(stream)
            raise IndexError("list index out of range")

        return Proxy(container, demux)

    monkeypatch.setattr(VideoReader, "_open", opened)
    assert len(read(path)) == 2


class Proxy:
    """A container with another `demux`."""

    def __init__(self, container, demux):
        self.container, self.demux = container, demux

    def __getattr__(self, name):
        return getattr(self.container, name)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.container.close()


def test_a_jump_of_the_time_stamps_is_no_endless_video(tmp_path):
    path = make_video(tmp_path / "a.mkv", 2.0, times=[0, 0.5, 1.0, 50_000.0], audio="pcm_s16le")
    with pytest.raises(VideoError, match="time stamps jump"):
        list(itertools.islice(VideoReader(path, size=32).segments(), 100))
