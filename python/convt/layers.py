"""Layers files: a layer a line, in JSON, which the convt command takes (docs/cli.md)."""

from __future__ import annotations

import os
import pathlib
import tempfile
from collections.abc import Iterable
from typing import NamedTuple

from . import _convt

__all__ = ["NamedLayer", "read", "write"]


class NamedLayer(NamedTuple):
    """A line of a layers file."""

    name: str
    batch: int
    problem: _convt.Problem


def read(
    path: str | os.PathLike[str], *, layout: str | None = None, ignore_post: bool = False
) -> list[NamedLayer]:
    """The layers of a file, also those with a `dialect`.

    layout: "nchw" or "nhwc" in place of the layers' own.
    ignore_post: leave out the layers' epilogues.

    Raises ValueError (or what a dialect raises) with the line's number, OSError.
    """
    layers = []
    lines = pathlib.Path(path).read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                layers.append(NamedLayer(*_convt.parse_layer(line, layout, ignore_post)))
            except Exception as error:
                raise type(error)(f"{os.fspath(path)}:{number}: {error}") from error
    return layers


def write(path: str | os.PathLike[str], lines: Iterable[str]) -> None:
    """Writes a file of these lines; whole or not at all. Raises OSError."""
    path = pathlib.Path(path)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name + ".")
    try:
        with open(handle, "w", encoding="utf-8") as file:
            file.writelines(line + "\n" for line in lines)
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)  # mkstemp() makes files for their owner alone
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
