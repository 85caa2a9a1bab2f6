"""Every block of docs/videos.md runs, in the order of the page."""

from __future__ import annotations

import importlib
import re
import shlex
from pathlib import Path

import pytest
import torch

pytest.importorskip("av", reason="PyAV is not installed")
pytest.importorskip("soxr", reason="soxr is not installed")

import numpy as np
from video_tools import make_video

from jca_fast.cli import main
from jca_fast.data.record import read_record
from jca_fast.models import AVELocalizer
from jca_fast.training import checkpoint
from jca_fast.video import extractors, vgg19, vggish

PAGE = Path(__file__).resolve().parents[1] / "docs" / "videos.md"
BLOCKS = re.findall(
    r"^```(sh|python)\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
)
COMMANDS = [line for kind, code in BLOCKS if kind == "sh" for line in code.splitlines()]
CODE = [code for kind, code in BLOCKS if kind == "python"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The working folder, with the files that the page names."""
    root = tmp_path_factory.mktemp("page")
    make_video(root / "myvideo.mp4", 1.0, picture=lambda time: np.full((64, 96, 3), 90, np.uint8))
    (root / "more.txt").write_text("myvideo.mp4\n")
    (root / "clips").mkdir()
    make_video(root / "clips" / "b.mp4", 1.0)
    for name, model in (
        ("vgg19-dcbb9e9d.pth", vgg19.VGG19("torchvision")),
        ("vggish-10086976.pth", vggish.VGGish()),
    ):
        torch.save(model.state_dict(), root / name)
    return root


@pytest.fixture(autouse=True)
def here(folder, monkeypatch):
    monkeypatch.chdir(folder)


def test_there_is_no_block_of_another_kind():
    assert re.findall(r"^```(\w*)$", PAGE.read_text(), re.MULTILINE)[::2] == [k for k, _ in BLOCKS]
    assert COMMANDS[0] == "pip install -e '.[video]'"
    assert len(COMMANDS) == 11
    assert len(CODE) == 3


@pytest.mark.timeout(600)
def test_the_commands_run(folder, capsys):
    for command in COMMANDS[1:]:
        program, *arguments = shlex.split(command)
        assert program == "jca-fast"
        assert main(arguments) == 0, f"{command}: {capsys.readouterr().err}"
    for name in ("report/index.html", "runs/demo-video/page/index.html", "events.json"):
        assert (folder / name).is_file()
    names = ("audio_feature.h5", "visual_feature.h5", "clips.h5")
    assert all((folder / "vgg_features" / name).is_file() for name in names)
    record = read_record(folder / "vgg_features")
    assert record is not None
    assert (record["visual"]["name"], record["audio"]["name"]) == ("vgg19 (torchvision)", "vggish")


def test_the_python_example_runs(folder, capsys):
    if not (folder / "runs" / "videos").is_dir():  # this test runs alone
        assert main(["extract", "myvideo.mp4", "-o", "myfeatures"]) == 0
        (folder / "runs" / "videos").mkdir(parents=True)
        record = read_record(folder / "myfeatures")
        best = folder / "runs" / "videos" / "best.pt"
        checkpoint.save(best, AVELocalizer(8, 8, 1), features=record)
    names: dict = {}
    exec(compile(CODE[2], str(PAGE), "exec"), names)
    assert "(4, 224, 224, 3) (16000,)" in capsys.readouterr().out
    assert names["outcomes"][0].stored.num_segments == 1
    assert (folder / "report_by_hand" / "index.html").is_file()


@pytest.mark.parametrize(("block", "library"), [(0, "timm"), (1, "torchaudio")])
def test_networks_of_other_libraries(folder, monkeypatch, block, library):
    """With the library's own model, of random weights: nothing is downloaded."""
    module = pytest.importorskip(library, reason=f"{library} is not installed")
    if library == "timm":
        create = module.create_model
        monkeypatch.setattr(
            module, "create_model", lambda *a, **k: create(*a, **{**k, "pretrained": False})
        )
    else:
        bundle = type(module.pipelines.WAV2VEC2_BASE)
        model = module.models.wav2vec2_base()
        monkeypatch.setattr(bundle, "get_model", lambda self: model)
    name = f"networks_{library}"
    (folder / f"{name}.py").write_text(CODE[block])
    importlib.invalidate_caches()
    if library == "timm":
        network = extractors.visual_network(f"{name}:picture")
        assert extractors.see(network, np.zeros((2, 224, 224, 3), np.uint8)).shape == (7, 7, 512)
    else:
        network = extractors.audio_network(f"{name}:sound")
        assert extractors.hear(network, np.zeros(16000, np.float32)).shape == (768,)
