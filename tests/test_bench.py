"""`jca-fast bench` at tiny sizes: the JSON, the page, and the comparison of two results."""

from __future__ import annotations

import copy
import json
import re

import pytest
import torch

from jca_fast.bench import measure, profile
from jca_fast.bench.command import table
from jca_fast.cli import main

TINY = (2, 4, 8, 8, 2)


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """The folder of a run."""
    out = tmp_path_factory.mktemp("bench") / "new" / "out"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure, "QUICK_SHAPES", (TINY,))
        patch.setattr(measure, "QUICK_BUDGET", 0.0)
        patch.setattr(measure, "READ_BYTES", 2**20)
        patch.setattr(measure, "BASE", {**measure.BASE, "batch": 2, "dim": 8, "k": 2})
        axes = {axis: (name, values[:2]) for axis, (name, values) in measure.AXES.items()}
        patch.setattr(measure, "AXES", {**axes, "channels d_a = d_v": ("dim", (4, 8))})
        patch.setattr(measure, "in_process", lambda _, form, shape, name: {"mib": len(form + name)})
        small = {"audio_dim": 4, "visual_dim": 4, "num_layers": 1, "region_features": 6}
        patch.setattr(profile, "QUICK", small)
        assert main(["bench", "--quick", "--out", str(out)]) == 0
    torch.set_num_threads(threads)
    return out


@pytest.fixture
def result(ran):
    return json.loads((ran / "bench.json").read_text())


def test_result_has_cases_axes_memory_profile_and_limits(result):
    assert result["cases"].keys() == {
        f"{form} layer, {mode}, 2x4 8+8 k2"
        for form in ("paper", "released")
        for mode in ("forward", "forward + backward")
    }
    for case in result["cases"].values():
        assert case["times"].keys() == {"eager", "jca_fast"}
        assert case["times"]["jca_fast"]["ratio"] == 1
    assert all(len(points) == 2 for points in result["axes"].values())
    assert result["memory"]["paper layer, memory"] == {"eager": 10, "jca_fast": 13}
    for step in result["step"].values():
        assert sum(step["parts"]["fused"].values()) > 0
    assert result["step"]["paper"]["parts"]["fused"]["ops of jca_fast"] > 0
    assert result["limits"]["bytes"] > 0
    assert result["machine"]["torch"] == torch.__version__


def test_page_is_one_file_that_needs_no_network(ran, result):
    page = (ran / "bench.html").read_text()
    assert not re.search(r"https?://|<script|<link|src=|@import|url\(", page)
    assert page.count("<svg") == len(result["axes"])
    for case in result["cases"]:
        assert case in page
    assert "prefers-color-scheme: dark" in page
    assert 'name="viewport"' in page


def test_table_on_the_terminal_has_a_line_for_each_case(result):
    lines = table(result)
    assert [line.split("  ")[0] for line in lines[1:-1]] == list(result["cases"])
    assert max(map(len, lines)) <= 100
    first = next(iter(result["cases"].values()))["times"]
    first["eager"].update(ms=1608.4, ratio=5.43, low=5.32, high=6.27)
    assert table(result)[1].endswith("     1608  5.4 (5.3 to 6.3)")


def compared(tmp_path, before, after):
    paths = [tmp_path / "a.json", tmp_path / "b.json"]
    for path, content in zip(paths, (before, after), strict=True):
        path.write_text(json.dumps(content))
    return main(["bench", "--compare", *map(str, paths)])


def steady(result):
    """The result with the speed-ups of a quiet run."""
    for case in result["cases"].values():
        case["times"]["eager"].update(ratio=4.0, low=3.8, high=4.2)
    return result


def test_compare_flags_what_is_slower_beyond_the_noise(result, tmp_path, capsys):
    before = steady(result)
    assert compared(tmp_path, before, before) == 0
    assert "no regression beyond the noise" in capsys.readouterr().out
    case = next(iter(before["cases"]))
    for ratio, low, high, status in (
        (3.0, 2.9, 3.1, 1),
        (3.0, 2.5, 3.9, 0),  # the ranges meet
        (3.79, 3.79, 3.79, 1),
        (3.81, 3.0, 3.79, 0),  # less than 5 %
        (9.0, 8.0, 10.0, 0),
    ):
        after = copy.deepcopy(before)
        after["cases"][case]["times"]["eager"].update(ratio=ratio, low=low, high=high)
        assert compared(tmp_path, before, after) == status
        assert ("SLOWER" in capsys.readouterr().out) == bool(status)


def test_compare_flags_memory_and_names_another_machine(result, tmp_path, capsys):
    before = steady(result)
    after = copy.deepcopy(before)
    after["memory"]["paper layer, memory"]["jca_fast"] += 2
    after["machine"]["threads"] = 64
    assert compared(tmp_path, before, after) == 1
    printed = capsys.readouterr().out
    assert "LARGER: 13.0 to 15.0 MiB" in printed
    assert "note: threads was 1, is 64" in printed


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "b.json: not valid JSON"),
        ("[]", "b.json: holds no cases"),
        ('{"cases": {}, "machine": {}}', "no case in common"),
    ],
)
def test_compare_names_a_file_that_does_not_fit(result, tmp_path, capsys, text, said):
    (tmp_path / "a.json").write_text(json.dumps(result))
    (tmp_path / "b.json").write_text(text)
    assert main(["bench", "--compare", *(str(tmp_path / n) for n in ("a.json", "b.json"))]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        (("cases", 0, "times", "eager", "ratio"), float("nan"), "times / eager / ratio is nan"),
        (("cases", 0, "times", "eager", "low"), float("inf"), "times / eager / low is inf"),
        (("cases", 0, "times", "eager", "high"), -1.0, "times / eager / high is -1.0"),
        (("cases", 0, "times", "eager", "ratio"), 10**400, "times / eager / ratio is 1000"),
        (("cases", 0, "times", "eager", "ratio"), "3", "times / eager / ratio is '3'"),
        (("cases", 0, "times", "eager", "ratio"), True, "times / eager / ratio is True"),
        (("cases", 0, "times", "eager"), None, "times / eager / ratio is None"),
        (("cases", 0, "times"), [1], "times / eager / ratio is None"),
        (("cases", 0), 7, "times / eager / ratio is None"),
        (("machine",), [1], "machine holds a list; needed: a dict"),
        (("memory",), [1], "memory holds a list; needed: a dict"),
        (("memory", 0, "jca_fast"), float("nan"), "jca_fast is nan"),
        (("memory", 0), {}, "jca_fast is None"),
        (("disturbances",), "no", "disturbances holds a str; needed: a list"),
    ],
)
@pytest.mark.parametrize("damaged", ["a.json", "b.json"])
def test_compare_names_a_value_that_does_not_fit(
    result, tmp_path, capsys, place, value, said, damaged
):
    files = {"a.json": result, "b.json": copy.deepcopy(result)}
    spot = files[damaged]
    for key in place[:-1]:
        spot = spot[list(spot)[key] if isinstance(key, int) else key]
    spot[list(spot)[place[-1]] if isinstance(place[-1], int) else place[-1]] = value
    assert compared(tmp_path, *files.values()) == 2
    printed = capsys.readouterr()
    assert f"{damaged}: " in printed.err
    assert said in printed.err
    assert not printed.out


def test_compare_notes_missing_cases_and_disturbed_runs(result, tmp_path, capsys):
    before = steady(result)
    after = copy.deepcopy(before)
    lost, gained = next(iter(before["cases"])), "a new case"
    after["cases"][gained] = after["cases"].pop(lost)
    del after["memory"]
    before["disturbances"], after["disturbances"] = [], ["the load average was 9"]
    assert compared(tmp_path, before, after) == 0
    lines = capsys.readouterr().out.splitlines()
    assert f"note: {lost} is in the first file only" in lines
    assert f"note: {gained} is in the second file only" in lines
    assert "note: paper layer, memory is in the first file only" in lines
    assert "note: the second run was disturbed: the load average was 9" in lines
    columns = {line.index(" same:") for line in lines if " same:" in line}
    assert len(columns) == 1


@pytest.mark.parametrize("flags", [["--quick"], ["--out", "there"]])
def test_compare_refuses_flags_of_a_measurement(tmp_path, capsys, flags):
    assert main(["bench", "--compare", "a.json", "b.json", *flags]) == 2
    assert "--compare measures nothing" in capsys.readouterr().err


def test_a_file_in_place_of_the_folder_is_named_before_the_measurement(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert main(["bench", "--quick", "--out", str(tmp_path / "file" / "out")]) == 2
    assert "--out" in (said := capsys.readouterr().err)
    assert "file is a file; needed: a folder" in said


def test_compare_names_a_missing_file(tmp_path, capsys):
    assert main(["bench", "--compare", str(tmp_path / "a.json"), str(tmp_path / "b.json")]) == 2
    assert "a.json" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("op", "kind"),
    [
        ("jca_fast::joint_coattention", "ops of jca_fast"),
        ("aten::addmm", "matrix products"),
        ("aten::mkldnn_rnn_layer_backward", "LSTM"),
        ("Optimizer.step#Adam.step", "optimizer"),
        ("aten::tanh_backward", "elementwise"),
        ("aten::copy_", "copies, fills, sums"),
        ("aten::view", "other"),
    ],
)
def test_ops_go_into_the_bucket_of_their_kind(op, kind):
    assert profile.bucket(op) == kind
