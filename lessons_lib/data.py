"""Fashion-MNIST: a subset that comes with the library, and the whole set on request.

Source: H. Xiao, K. Rasul and R. Vollgraf, "Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning
Algorithms", 2017, arXiv:1708.07747.
"""

import bz2
import gzip
import hashlib
import http.client
import io
import math
import os
import secrets
import shutil
import urllib.error
import urllib.request
import zlib
from pathlib import Path

import torch
from torch.utils.data import TensorDataset
from tqdm.auto import tqdm

from lessons_lib.checks import as_bool, as_path

CLASSES = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
BUNDLE = Path(__file__).with_name("fashion_mnist")
FILES = {  # images and labels of each split
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
# SHA-256 of the unpacked files: the packed ones differ between mirrors, the data do not.
SHA256 = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
BUNDLE_SHA256 = {
    "train-images-idx3-ubyte": "d33512cfdc636a0d8972818e6659995be209a88891df7fa2109d7895922c8985",
    "train-labels-idx1-ubyte": "620cb8e3b9348037c5ff9a07b02d773ab165330e072dfd19e0d21c59f8042dcf",
    "t10k-images-idx3-ubyte": "15a92dd1e9b16ea361928086e77df4dfa890c255c00b5a8c8162c1040ce8eef1",
    "t10k-labels-idx1-ubyte": "234596aeb6eb48133ec99a62541f90bc0728c9559a681f1e0638037462458f2c",
}
MIRRORS = (
    "https://storage.googleapis.com/tensorflow/tf-keras-datasets/",
    "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
)
TIMEOUT = 30.0  # seconds without a single byte, after which a mirror counts as dead
UNPACK = {".gz": gzip.decompress, ".bz2": bz2.decompress}


def fashion_mnist(split: str, *, full: bool = False, root: str | os.PathLike[str] | None = None) -> TensorDataset:
    """The images and labels of Fashion-MNIST, as float32 of shape (n, 1, 28, 28) from 0 to 1, and int64 of shape (n,).

    Args:
        split: "train" or "test".
        full: all 60,000 (test: 10,000) images, instead of the first 1,000 (200) of each class, unaltered and in the
            original order, which are bundled with the library and need no network.
        root: where the files of the whole set are, plain or .gz, or are downloaded to; a file that is there is never
            changed. By default `lessons_lib/fashion_mnist` in the user's cache (`$XDG_CACHE_HOME`, or else `~/.cache`).

    Raises a ValueError if root is given without full, or a file is damaged, and an OSError if no mirror delivers (a
    `ConnectionError`), root cannot be written, or a bundled file is missing.

    >>> train_set = fashion_mnist("train")
    >>> image, label = train_set[0]
    >>> len(train_set), image.shape, CLASSES[label]
    (10000, torch.Size([1, 28, 28]), 'ankle boot')
    """
    if split not in list(FILES):
        raise ValueError(f'split: expected "train" or "test", got {split!r}')
    full, root = as_bool("full", full), None if root is None else as_path("root", root)
    if root is not None and not full:
        raise ValueError(f"root: expected None unless full=True, since the subset is bundled; got {str(root)!r}")
    images, labels = (read_whole(name, root) if full else _read_bundled(name) for name in FILES[split])
    return TensorDataset(images.unsqueeze(1).float().div_(255), labels.long())


def read_whole(name: str, root: str | os.PathLike[str] | None = None) -> torch.Tensor:
    """One file of the whole set, by its name in `SHA256`, as uint8; what `root` lacks is downloaded into it."""
    if name not in SHA256:
        raise ValueError(f"name: expected one of {', '.join(SHA256)}, got {name!r}")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "lessons_lib", "fashion_mnist")
    folder = as_path("root", cache if root is None else root)
    path = folder / name if (folder / name).is_file() else folder / f"{name}.gz"
    if not path.is_file():
        _download(path, SHA256[name])
    return read_idx(path, SHA256[name], "Delete the file to get it downloaded anew.")


def read_idx(path: Path, sha256: str, remedy: str) -> torch.Tensor:
    """The uint8 array in an IDX file, plain, .gz or .bz2. If its hash is another, the error ends in `remedy`."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing. {remedy}")
    data = bytearray(_unpack(path.read_bytes(), str(path), sha256, remedy))
    # Two zeros, 8 for unsigned bytes, the number of dimensions; then each size in four bytes, big end first.
    start = 4 + 4 * int.from_bytes(data[3:4], "big")
    shape = [int.from_bytes(data[at : at + 4], "big") for at in range(4, start, 4)]
    if data[:3] != b"\0\0\x08" or len(data) != start + math.prod(shape):
        raise ValueError(f"{path} is not a complete IDX file of unsigned bytes. {remedy}")
    return torch.frombuffer(data, dtype=torch.uint8, offset=start).reshape(shape)


def _read_bundled(name: str) -> torch.Tensor:
    return read_idx(BUNDLE / f"{name}.bz2", BUNDLE_SHA256[name], "Reinstall lessons_lib.")


def _unpack(packed: bytes, source: str, sha256: str, remedy: str = "") -> bytes:
    try:
        data = UNPACK.get(Path(source).suffix, bytes)(packed)
        if (came := hashlib.sha256(data).hexdigest()) != sha256:
            raise ValueError(f"SHA-256 {came} unpacked, expected {sha256}")
    except (EOFError, OSError, ValueError, zlib.error) as error:  # a truncated or other archive is told in four ways
        raise ValueError(f"{source} is truncated or damaged ({error}). {remedy}".rstrip()) from error
    return data


def _download(path: Path, sha256: str) -> None:
    """Put a file in its place once its bytes are proven; until then it has another name, under which none is read."""
    part = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.touch(exist_ok=False)  # now: it would be a pity to learn that root is read-only after 26 MB
        part.write_bytes(_fetch(path, sha256))
        os.replace(part, path)
    except ConnectionError:
        raise
    except OSError as error:
        reason = f"{path.name} is missing in root, and root cannot be written ({error.strerror})"
        raise OSError(error.errno, reason, str(path.parent)) from error
    finally:
        if part.exists():
            part.unlink()


def _fetch(path: Path, sha256: str) -> bytes:
    """Ask each mirror for the packed file, twice if need be, and return the first answer that has the right hash."""
    failures = {}
    for mirror in [mirror for mirror in MIRRORS for _ in range(2)]:
        try:
            packed = _get(mirror + path.name)
            _unpack(packed, mirror + path.name, sha256)
            return packed
        except (OSError, ValueError, http.client.HTTPException) as error:
            failures[mirror] = error
            if isinstance(error, urllib.error.HTTPError):
                error.close()  # it holds the connection, and would as long as the failure is remembered
    reasons = "".join(f"\n  {mirror}: {type(error).__name__}: {error}" for mirror, error in failures.items())
    raise ConnectionError(
        f"{path.name} could not be downloaded from any mirror:{reasons}\nBy hand: download "
        f"{', '.join(f'{name}.gz' for name in SHA256)} from one of them and put them into {path.parent}"
    ) from failures[MIRRORS[-1]]


def _get(url: str) -> bytes:
    packed = io.BytesIO()
    with urllib.request.urlopen(url, timeout=TIMEOUT) as reply:
        size = int(reply.headers["Content-Length"] or 0) or None
        with tqdm.wrapattr(reply, "read", size, desc=url.rpartition("/")[2], unit="B", leave=False) as shown:
            shutil.copyfileobj(shown, packed)
    return packed.getvalue()
