"""The cost of an import, the public names, the table of backends and the command line."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

import jca_fast
from jca_fast.cli import COMMANDS, main
from jca_fast.ops import backends


def python(code: str, **env: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **env}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_import_is_lean():
    heavy = ("torch", "triton", "h5py", "matplotlib", "tensorboard", "tqdm", "safetensors")
    code = f"import jca_fast, sys; print([m for m in {heavy!r} if m in sys.modules])"
    assert python(code) == "[]"


def test_using_the_modules_starts_no_cuda_and_imports_nothing_optional():
    code = (
        "import sys, torch, jca_fast; jca_fast.JointCoAttention(4, 4, 3)(torch.zeros(1, 3, "
        "4), torch.zeros(1, 3, 4));"
        "optional = ('triton', 'h5py', 'matplotlib', 'torch._dynamo');"
        "print(torch.cuda.is_initialized(), [m for m in optional if m in sys.modules])"
    )
    assert python(code) == "False []"


def test_compiles_in_a_fresh_process_before_any_eager_call():
    code = (
        "import torch; from jca_fast import JointCoAttention; m = JointCoAttention(4, 4, 3);"
        "f = torch.compile(m, fullgraph=True, backend='aot_eager');"
        "print(f(torch.zeros(2, 3, 4), torch.zeros(2, 3, 4))[0].shape)"
    )
    assert python(code) == "torch.Size([2, 3, 4])"


def test_public_names_resolve():
    for name in jca_fast.__all__:
        assert getattr(jca_fast, name) is not None
    assert set(jca_fast.__all__) == set(dir(jca_fast))
    with pytest.raises(AttributeError, match="no attribute 'JointCoAtention'"):
        _ = jca_fast.JointCoAtention


def test_explain_names_the_choice_and_the_reasons(monkeypatch):
    refusing = backends.Backend("picky", "", None, lambda op, tensors: ["it is Tuesday"])
    monkeypatch.setattr(backends, "BACKENDS", (refusing, *backends.BACKENDS))
    q = torch.zeros(2, 3, 4)
    text = jca_fast.explain(q, q, q)
    assert "picky" in text
    assert "cannot run: it is Tuesday" in text
    assert "chosen" in text
    with pytest.raises(
        RuntimeError, match="backend 'picky' cannot run tanh_attention: it is Tuesday"
    ):
        jca_fast.tanh_attention(q, q, q, 1.0, backend="picky")


def test_environment_names_the_backend(monkeypatch):
    q = torch.zeros(2, 3, 4)
    monkeypatch.setenv("JCA_FAST_BACKEND", "reference")
    assert "chosen by JCA_FAST_BACKEND" in jca_fast.explain(q, q, q)
    monkeypatch.setenv("JCA_FAST_BACKEND", "")
    assert jca_fast.explain(q, q, q).count(" chosen") == 1
    jca_fast.tanh_attention(q, q, q, 1.0)


@pytest.mark.parametrize("name", ["warp", "CPU", "cpu ", "cpu,reference"])
def test_an_unknown_backend_in_the_environment_is_an_error(monkeypatch, name):
    q = torch.zeros(2, 3, 4)
    monkeypatch.setenv("JCA_FAST_BACKEND", name)
    for call in (lambda: jca_fast.tanh_attention(q, q, q, 1.0), lambda: jca_fast.explain(q, q, q)):
        with pytest.raises(ValueError, match=f"JCA_FAST_BACKEND must be .*; got '{name}'"):
            call()


def test_no_backend_left_is_an_error_with_all_reasons(monkeypatch):
    rows = tuple(backends.Backend(n, "", None, lambda op, tensors: ["no"]) for n in ("one", "two"))
    monkeypatch.setattr(backends, "BACKENDS", rows)
    with pytest.raises(
        RuntimeError, match=r"no backend can run tanh_attention:[\s\S]*one[\s\S]*two"
    ):
        backends.choose("tanh_attention", "auto", (torch.zeros(1),))


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    assert f"jca-fast {command}" in capsys.readouterr().out


def test_a_users_error_is_one_line(capsys):
    assert main(["evaluate", "no-such-file.pt", "--data", "no-such-folder"]) == 2
    message = capsys.readouterr().err
    assert message.startswith("jca-fast evaluate: error: ")
    assert message.count("\n") == 1


def test_doctor_reports(capsys):
    assert main(["doctor"]) == 0
    printed = capsys.readouterr().out
    for word in ("jca_fast", "torch", "backend", *backends.names()):
        assert word in printed
