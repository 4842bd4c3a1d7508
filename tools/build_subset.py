"""Rebuild the bundled subset of Fashion-MNIST from the whole set, byte for byte.

    python tools/build_subset.py [--root DIR] [--check]

The rule: the first 1,000 (test: 200) images of each class, in the order of the original files.
"""

import argparse
import bz2
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the bundle to rebuild is that of this checkout
from lessons_lib import data
from lessons_lib.files import write_whole

PER_CLASS = {"train": 1000, "test": 200}


def first_of_each_class(labels: torch.Tensor, count: int) -> torch.Tensor:
    """The indices, ascending, of the first `count` occurrences of each of the classes."""
    found = [(labels == label).nonzero().flatten()[:count] for label in range(len(data.CLASSES))]
    if short := [label for label, indices in enumerate(found) if len(indices) < count]:
        raise ValueError(f"labels must hold {count} of each class, got fewer of {short}")
    return torch.cat(found).sort().values


def idx_bytes(array: torch.Tensor) -> bytes:
    """A uint8 tensor as an IDX file: type and number of dimensions, the sizes, the values."""
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes((0, 0, 8, array.ndim)) + sizes + array.numpy().tobytes()


def main(arguments: Sequence[str] | None = None) -> int:
    """Rebuild or check the four files; return the exit status."""
    parser = argparse.ArgumentParser(description="Rebuild the bundled subset of Fashion-MNIST from the whole set.")
    parser.add_argument("--root", type=Path, help="folder of the whole set; default: the user's cache")
    parser.add_argument("--check", action="store_true", help="write nothing, exit with 1 where the bundle differs")
    options = parser.parse_args(arguments)
    status = 0
    for split, names in data.FILES.items():
        images, labels = (data.read_whole(name, options.root) for name in names)
        keep = first_of_each_class(labels, PER_CLASS[split])
        for name, array in zip(names, (images[keep], labels[keep]), strict=True):
            path = data.BUNDLE / f"{name}.bz2"
            # bzip2, because its encoder is frozen: the same bytes come out anywhere, with any version, which gzip's
            # many encoders do not promise. It packs these images smaller, too.
            packed = bz2.compress(idx_bytes(array), 9)
            if not options.check:
                path.parent.mkdir(exist_ok=True)
                write_whole(path, packed)
            elif not path.is_file() or path.read_bytes() != packed:
                print(f"{path} is not what the rule gives; rebuild it without --check", file=sys.stderr)
                status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
