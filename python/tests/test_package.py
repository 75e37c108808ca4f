"""What is installed."""

import ast
import inspect
import os
import pathlib
import subprocess
import sys

import pytest

import convt

FOLDER = pathlib.Path(convt.__file__).parent


def test_version():
    cmake = pathlib.Path(__file__).parents[2] / "CMakeLists.txt"
    assert f"VERSION {convt.__version__}\n" in cmake.read_text()


def test_types():
    assert (FOLDER / "py.typed").exists()
    stubs = ast.parse((FOLDER / "_convt.pyi").read_text())
    named = {getattr(node, "name", None) for node in stubs.body}
    in_python = {"__version__", "tune_distributed"}
    assert set(convt.__all__) - in_python <= named


def test_everything_is_documented():
    for name in convt.__all__:
        thing = getattr(convt, name)
        assert name == "__version__" or inspect.getdoc(thing), name


def test_types_are_strict():
    """The package and its stubs, as strictly as mypy can."""
    for name in ("mypy", "torch", "onnx"):
        pytest.importorskip(name, reason=f"{name} is not installed")
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", os.devnull, str(FOLDER)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
