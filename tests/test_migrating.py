"""Every line of docs/migrating.md that can be run is run."""

from __future__ import annotations

import inspect
import re
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from jca_fast import compat
from jca_fast.cli import main
from jca_fast.compat import cam, released
from jca_fast.compat.recognize import recognize

PAGE = Path(__file__).resolve().parents[1] / "docs" / "migrating.md"
OPTIONS = Namespace(
    rnn="LSTM", num_layers=2, audio_size=8, video_size=12, num_seq=2, dropout=0.3, num_classes=29
)
PARTS = re.compile(r"^#{2,3} ([^\n]+)$|^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(language: str) -> list[tuple[str, str]]:
    """(heading, code) of every code block in that language."""
    found, heading = [], ""
    for title, kind, code in PARTS.findall(PAGE.read_text()):
        heading = title or heading
        if kind == language:
            found.append((heading, code))
    return found


CALL = re.compile(r"^(\w[\w, ]*) = [^#\n]*\(([\w, ]+)\)  # (.+) -> (.+)$", re.MULTILINE)
SHAPE = re.compile(r"\(B, ([\d, ]+)\)")


def commented(heading: str, results: bool) -> dict[str, tuple[int, ...]]:
    """The shapes behind B that the comment of a call states: of its inputs, or of its results."""
    found: dict[str, tuple[int, ...]] = {}
    for code in section(heading):
        for outputs, inputs, before, after in CALL.findall(code):
            names, text = (outputs, after) if results else (inputs, before)
            sizes = [tuple(map(int, shape.split(", "))) for shape in SHAPE.findall(text)]
            found |= zip(names.split(", "), sizes, strict=True)
    return found


def stated(heading: str) -> dict[str, tuple[int, ...]]:
    """The results of a section as its comments state them, at a batch of two."""
    return {name: (2, *size) for name, size in commented(heading, results=True).items()}


def given(heading: str) -> dict[str, Any]:
    """The variables that a section's code assumes, at the published sizes and a batch of two."""
    name = heading.rpartition("/")[2]
    shapes = (
        {
            "A batch of one": {"audio": (10, 128), "video": (10, 7, 7, 512)},
            "Recursive-joint-co-attention": {"audio": (10, 128), "video": (10, 7, 7, 512)},
            "JointCrossAttentional-AV-Fusion": {"audio": (8, 512), "visual": (8, 512)},
            "Joint-Cross-Attention-for-Audio-Visual-Fusion": {
                "audio": (16, 512),
                "visual": (16, 512),
                "buffer": (16, 25088),
            },
            "RecurrentJointAttentionwithLSTMs": {"audio": (16, 512), "buffer": (16, 25088)},
            "RJCAforSpeakerVerification": {"audio": (8, 192), "visual": (8, 512)},
            "RJCMA": {"video": (300, 256), "audio": (300, 128), "text": (300, 128)},
            "ABAW8": {"video": (300, 256), "audio": (300, 128)},
            "Dynamic-CrossAttention": {"audio": (16, 512), "buffer": (16, 25088)},
            "PKDOT": {"first": (1, 512), "second": (1, 512)},
            "SPIRo": {"video": (300, 256), "audio": (300, 128)},
            "RJCMA_global_attention": {"audio": (16, 128), "visual": (16, 128)},
        }.get(name, {})
        if name in RESULTS
        else commented(name, results=False)
    )
    objects: dict[str, Any] = {"torch": torch, "opt": OPTIONS}
    if name == "Going back":
        objects["model"] = cam.CAM(8)
    if name == "RJCMA_global_attention":
        objects["theirs"] = aver_weights()
    return {**objects, **{key: torch.rand(2, *shape) for key, shape in shapes.items()}}


def aver_weights() -> dict[str, torch.Tensor]:
    """The state_dict of AVER's whole model: the attention among encoders and regressors."""
    weights = cam.CAM(16, 512, 128, heads=("vregressor", "aregressor"), head_input="attended")
    return {**weights.state_dict(), "reduce_visual.weight": torch.rand(512, 25088)}


RESULTS: dict[str, list[dict[str, tuple[int, ...]]]] = {
    "A batch of one": [{"scores": (10, 29)}],
    "Checkpoints": [{}],
    "Going back": [{}, {}],
    "Beyond the published modules": [{"video_1": (2, 10, 12), "audio_2": (2, 10, 8)}],
    "Recursive-joint-co-attention": [{"scores": (2, 10, 29)}, {}],
    "JointCrossAttentional-AV-Fusion": [{"score": (2, 8, 1)}],
    "Joint-Cross-Attention-for-Audio-Visual-Fusion": [
        {"valence": (2, 16), "arousal": (2, 16)},
        {"valence": (2, 16, 1), "arousal": (2, 16, 1)},
        {"score": (2, 16, 1)},
    ],
    "RecurrentJointAttentionwithLSTMs": [{"valence": (2, 16), "arousal": (2, 16)}],
    "RJCAforSpeakerVerification": [{"features": (2, 8, 704), "embedding": (2, 512)}],
    "RJCMA": [{"video": (2, 300, 256), "audio": (2, 300, 128), "text": (2, 300, 128)}],
    "ABAW8": [{"fused": (2, 300, 384)}],
    "Dynamic-CrossAttention": [{"valence": (2, 16), "arousal": (2, 16)}],
    "PKDOT": [{"logits": (2, 1, 2), "first": (2, 1, 512), "second": (2, 1, 512)}],
    "SPIRo": [{"video": (2, 300, 256), "audio": (2, 300, 128)}],
    "RJCMA_global_attention": [{"audio": (2, 16, 128), "visual": (2, 16, 128)}],
    "Other code, by its shapes": [{}],
}
"""The blocks of sections, and the shapes of what they compute.

A section that is not listed states them in the comment of its call: ``# (B, 8, 128) -> (B, 8, 1)``.
"""


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """The working directory, with the files that the page names."""
    monkeypatch.chdir(tmp_path)
    torch.save(released.DCNWithRCNN(OPTIONS), "test.pt")
    net = cam.CAM(8).state_dict()
    torch.save({"net": net, "best_Val_accV": np.float64(0.5)}, "cam_model.pt")  # as published
    return tmp_path


def section(heading: str) -> list[str]:
    return [code for title, code in blocks("python") if title.rpartition("/")[2] == heading]


def run(heading: str, code: str) -> dict[str, Any]:
    names = given(heading)
    exec(compile(code, f"{PAGE.name}: {heading}", "exec"), names)
    return names


HEADINGS = list(dict.fromkeys(title.rpartition("/")[2] for title, _ in blocks("python")))


def test_every_section_with_code_says_what_it_computes():
    assert set(RESULTS) <= set(HEADINGS)
    assert [name for name in HEADINGS if name not in RESULTS and not commented(name, True)] == []


def test_every_published_repository_has_a_section(shared):
    """All repositories in the table of the page."""
    note = (shared / "notes" / "compatibility.md").read_text()
    table = note[note.index("## 3. ") : note.index("## 4. ")]
    named = re.findall(r"^\| ([\w.-]+/[\w.-]+)(?:, ([\w.-]+/[\w.-]+))?", table, re.MULTILINE)
    headings = " ".join(line for line in PAGE.read_text().splitlines() if line.startswith("## "))
    repositories = [name for row in named for name in row if name]
    assert len(repositories) == 14
    assert [name for name in repositories if name not in headings] == []


@pytest.mark.parametrize("heading", HEADINGS)
def test_python(folder, heading):
    codes = section(heading)
    for code, shapes in zip(codes, RESULTS.get(heading) or [stated(heading)], strict=True):
        names = run(heading, code)
        assert {name: tuple(names[name].shape) for name in shapes} == shapes


def test_checkpoints_become_the_models_the_page_says(folder):
    names = run("Checkpoints", section("Checkpoints")[0])
    assert isinstance(names["model"], released.DCNWithRCNN)
    assert isinstance(names["same"], cam.CAM)
    assert not names["model"].training
    names = run("Going back", section("Going back")[0])
    assert set(torch.load("cam_model.pt", weights_only=True)["net"]) == set(
        names["model"].state_dict()
    )


def test_every_iteration_is_there():
    names = run("ABAW8", section("ABAW8")[0])
    for feature, width in (("videos", 256), ("audios", 128)):
        assert [tuple(x.shape[1:]) for x in names[feature]] == [(300, width)] * 2


ROW = re.compile(r"^\| ([^|]+) \| `(from [^`]+)` \| `([^`]+)` \| `([^`]+)` \|", re.MULTILINE)
KEYS = {
    "recursive_joint_co_attention DCNWithRCNN": 126,
    "jointcrossattentional_av_fusion CAM": 16,
    "joint_cross_attention_for_audio_visual_fusion CAM": 50,
    "joint_cross_attention_for_audio_visual_fusion PaperCAM as CAM": 20,
    "joint_cross_attention_for_audio_visual_fusion Jcam_512 as CAM": 12,
    "recurrentjointattentionwithlstms CAM": 88,
    "rjcaforspeakerverification CAM": 117,
    "rjcma DCNLayer": 40,
    "abaw8 GRJCA_cam": 61,
    "abaw8 HGRJCA_cam": 73,
    "dynamic_crossattention CAM": 106,
    "pkdot CAM": 98,
    "spiro DCNLayer": 28,
}
"""The line of each row behind ``jca_fast.compat.``, and the keys that the published class has.

A row that is not listed states them in its section: ``Same: 28 keys``.
"""


def rows() -> dict[str, tuple[str, str, str]]:
    """(their line, our line, their call) of every row of the table at the top of the page."""
    found = {}
    for _, theirs, ours, call in ROW.findall(PAGE.read_text()):
        name = ours.removeprefix("from jca_fast.compat.").replace(" import ", " ")
        found[name] = (theirs, ours, call)
    return found


def stated_keys(namespace: str) -> int:
    """The number of keys in the section of the repository with that namespace."""
    for text in PAGE.read_text().split("\n## ")[1:]:
        heading, _, body = text.partition("\n")
        if heading.rpartition("/")[2].lower().replace("-", "_") == namespace:
            return int(re.findall(r"Same: (\d+) keys", body)[0])
    raise LookupError(f"no section for {namespace}")


def test_every_namespace_has_a_row():
    assert set(KEYS) <= set(rows())
    assert {name.split()[0] for name in rows()} == set(compat.REPOSITORIES)


@pytest.mark.parametrize("name", rows())
def test_a_row_of_the_table_takes_the_call_of_its_repository(name):
    theirs, ours, call = rows()[name]
    assert theirs.split(" import ")[1] == ours.split(" import ")[1].split(" as ")[-1]
    names: dict[str, Any] = {"opt": Namespace()}  # the published options
    exec(ours, names)
    with torch.device("meta"):
        model = eval(call, names)
    assert len(model.state_dict()) == (KEYS.get(name) or stated_keys(name.split()[0]))
    with torch.device("meta"):
        recognized = recognize(model.state_dict()).build()
    assert isinstance(model, type(recognized)), "KNOWN of published.py lacks the class"
    assert {"lengths", "key_padding_mask"} <= set(inspect.signature(model.forward).parameters)


def test_the_variant_with_shared_weights_is_rewritten_right():
    """As the page says: the visual branch on the audio's weights, W_j on the side of X."""
    names = run("RJCMA_global_attention", section("RJCMA_global_attention")[0])
    inputs = given("RJCMA_global_attention")
    w, model = names["theirs"], names["model"]
    audio, visual = inputs["audio"], inputs["visual"]
    joint = torch.cat((audio, visual), dim=-1)
    for i, (name, x) in enumerate((("a", audio), ("v", visual))):
        c = torch.tanh((w[f"affine_{name}.weight"] @ x).mT @ joint / 256**0.5)
        h = torch.relu(x.mT @ w["W_a.weight"].T + c @ w["W_ca.weight"].T)
        torch.testing.assert_close(
            model(audio, visual)[i], x + (h @ w[f"W_h{name}.weight"].T).mT, rtol=1e-4, atol=1e-4
        )


def test_the_unchanged_weights_of_that_variant_are_refused_and_its_attention_is_wrong(caplog):
    theirs = given("RJCMA_global_attention")["theirs"]
    with pytest.raises(ValueError, match="the weights of AVER"):
        compat.from_state_dict(theirs)
    parts = ("affine_", "W_")
    compat.from_state_dict({key: x for key, x in theirs.items() if key.startswith(parts)})
    assert "AVER" in caplog.text


SHARED = re.compile(r"jca_fast\.compat\.(released|cam|orig_cam|speaker) import")


def test_sections_of_repositories_import_from_their_namespaces():
    for heading, code in blocks("python"):
        name = heading.rpartition("/")[2].lower().replace("-", "_")
        if name in compat.REPOSITORIES:
            assert not SHARED.search(code), heading
            assert f"jca_fast.compat.{name} import" in code


def test_commands(folder, capsys):
    assert main(["data", "synth", "planted", "--num-clips", "30"]) == 0
    commands = [line for _, code in blocks("sh") for line in code.splitlines()]
    assert len(commands) == 6
    for command in commands:
        program, *arguments = command.split()
        assert program == "jca-fast"
        assert main(arguments) == 0, capsys.readouterr().err
    whole = torch.load("test.pt", weights_only=False).state_dict()
    back = torch.load("published.pt", weights_only=True)
    assert all(torch.equal(back[key], value) for key, value in whole.items())
    assert set(torch.load("back.pt", weights_only=True)) == {"net", "best_Val_accV"}


def test_links_lead_somewhere():
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", PAGE.read_text()):
        assert (PAGE.parent / target).exists(), target
