"""python -m convt layers model.onnx: the ConvTranspose layers of a model as a layers file."""

from __future__ import annotations

import argparse
import sys


def dimension(text: str) -> tuple[str, int]:
    name, _, value = text.rpartition("=")
    if not name or not value.isdecimal() or int(value) < 1:
        raise argparse.ArgumentTypeError(f"'{text}', expected NAME=LENGTH")
    return name, int(value)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m convt", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    layers = commands.add_parser(
        "layers",
        help="the ConvTranspose nodes of an ONNX model as a layers file",
        description="Writes a layers file, which 'convt verify', 'explain' and 'bench' take, with "
        "every ConvTranspose node of an ONNX model: shapes are inferred; activations, batch norms "
        "and additions that follow become epilogues. Needs the package onnx. Exit status: 0 well, "
        "2 bad input.",
    )
    layers.add_argument("model", help="an ONNX file")
    layers.add_argument("-o", "--output", metavar="FILE", help="instead of standard output")
    layers.add_argument(
        "--dim",
        action="append",
        default=[],
        type=dimension,
        metavar="NAME=LENGTH",
        help="a length that the model leaves open, by its name or as input:axis; may be repeated",
    )
    layers.add_argument(
        "--skip", action="store_true", help="leave nodes out that cannot be told, with a warning"
    )
    return parser


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        from . import layers
        from .onnx_layers import extract
    except ImportError as error:
        print(f"convt: needs the package onnx (pip install onnx): {error}", file=sys.stderr)
        return 2
    try:
        lines, left_out = extract(options.model, dict(options.dim), skip=options.skip)
        for message in left_out:
            print(f"convt: left out: {message}", file=sys.stderr)
        if not lines:
            raise ValueError(f"{options.model}: there is no ConvTranspose node")
        if options.output:
            layers.write(options.output, lines)
        else:
            print("\n".join(lines))
    except Exception as error:  # onnx has several classes for a file that is no model
        print(f"convt: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
