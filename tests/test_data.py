"""The bundled subset is what it says, and no way to get the whole set ends in data that are not Fashion-MNIST."""

import bz2
import errno
import gzip
import hashlib
import importlib.util
import os
import random
import re
import resource
import runpy
import signal
import struct
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lessons_lib import data
from lessons_lib.data import CLASSES, fashion_mnist, read_idx
from tests.processes import context

REPOSITORY = Path(__file__).resolve().parents[1]
TRAIN = data.FILES["train"]
REAL_MIRRORS = data.MIRRORS
REMEDY = "What to do."
bundled = cache(fashion_mnist)
PACK: dict[str, Callable[[bytes], bytes]] = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress}


def idx(values: bytes, *shape: int) -> bytes:
    return struct.pack(f">HBB{len(shape)}I", 0, 8, len(shape), *shape) + values


def sha256(unpacked: bytes) -> str:
    return hashlib.sha256(unpacked).hexdigest()


@pytest.fixture
def whole(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """A small "whole set": the unpacked bytes of four files, which the library now takes for the true ones."""
    rng = random.Random(0)
    files = {}
    for (images, labels), count in zip(data.FILES.values(), (150, 60), strict=True):
        kinds = [*range(10)] * 3 + rng.choices(range(10), k=count - 30)
        rng.shuffle(kinds)
        files[images] = idx(rng.randbytes(count * 784), count, 28, 28)
        files[labels] = idx(bytes(kinds), count)
    monkeypatch.setattr(data, "SHA256", {name: sha256(unpacked) for name, unpacked in files.items()})
    return files


def put(root: Path, files: dict[str, bytes], suffix: str = ".gz") -> None:
    for name, unpacked in files.items():
        (root / f"{name}{suffix}").write_bytes(PACK[suffix](unpacked))


def assert_is_whole(got: torch.utils.data.TensorDataset, whole: dict[str, bytes], split: str = "train") -> None:
    images, labels = got.tensors
    pixels, kinds = (whole[name] for name in data.FILES[split])
    assert (images.shape, images.dtype) == ((len(kinds) - 8, 1, 28, 28), torch.float32)
    assert (labels.shape, labels.dtype) == ((len(kinds) - 8,), torch.int64)
    assert bytes(labels.tolist()) == kinds[8:]
    assert images.mul(255).round().byte().numpy().tobytes() == pixels[16:]


class Mirror(ThreadingHTTPServer):
    """Answers /KIND/FILE.gz as a mirror of that kind would; `asked` lists what it was asked for."""

    daemon_threads = False  # so that closing waits for every answer
    request_queue_size = 32

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.files = {f"{name}.gz": gzip.compress(unpacked) for name, unpacked in files.items()}
        self.asked: list[tuple[str, str]] = []
        self.end = threading.Event()
        self.meeting = threading.Barrier(4)

    def url(self, kind: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{kind}/"

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: clients hang up here on purpose."""


class Answer(BaseHTTPRequestHandler):
    server: Mirror

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        _, kind, file = self.path.split("/")
        again = (kind, file) in self.server.asked
        self.server.asked.append((kind, file))
        packed = self.server.files[file]
        if kind == "flaky":
            kind = "good" if again else "failing"
        if kind == "stalled":
            self.server.end.wait()
        elif kind in ("missing", "forbidden", "failing"):
            self.send_error({"missing": 404, "forbidden": 403, "failing": 500}[kind])
        elif kind in ("moved", "circling"):
            self.send_response(302)
            self.send_header("Location", self.server.url("good" if kind == "moved" else kind) + file)
            self.end_headers()
        elif kind != "dropped":  # which hangs up without a word
            body = {
                "corrupt": gzip.compress(gzip.decompress(packed)[:-1] + b"?"),
                "truncated": packed[: len(packed) // 2],
                "empty": b"",
                "notice": b"<html>This page has moved.</html>",
            }.get(kind, packed)
            self.send_response(200)
            if kind != "unannounced":
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if kind == "meeting":  # it waits for four
                self.server.meeting.wait(60)
            for part in range(20):
                if kind == "cut" and part == 10:  # it promised all and hangs up in the middle
                    return
                if kind == "unfinished":  # the images come slowly, the labels never whole
                    time.sleep(0.0025)
                    if part == 10 and "labels" in file:
                        self.server.end.wait()
                self.wfile.write(body[len(body) * part // 20 : len(body) * (part + 1) // 20])


@pytest.fixture
def mirror(whole: dict[str, bytes]) -> Iterator[Mirror]:
    server = Mirror(whole)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.end.set()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def use(mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    return lambda *kinds: monkeypatch.setattr(data, "MIRRORS", tuple(mirror.url(kind) for kind in kinds))


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a test does, it asks no real mirror and no proxy."""
    monkeypatch.setattr(data, "MIRRORS", ("http://127.0.0.1:1/",))
    monkeypatch.setenv("no_proxy", "*")


# The bundled subset


@pytest.mark.parametrize(("split", "per_class"), [("train", 1000), ("test", 200)])
def test_subset_is_balanced_and_scaled(split: str, per_class: int) -> None:
    images, labels = bundled(split).tensors
    assert (images.shape, images.dtype) == ((10 * per_class, 1, 28, 28), torch.float32)
    assert (labels.shape, labels.dtype) == ((10 * per_class,), torch.int64)
    assert labels.bincount().tolist() == [per_class] * len(CLASSES)
    assert (images.min(), images.max()) == (0, 1)
    assert torch.equal(images, images.mul(255).round().div(255))
    assert len(images.flatten(1).unique(dim=0)) > 9.9 * per_class  # pictures, not one picture many times


def test_subset_is_what_people_know() -> None:
    labels = bundled("train").tensors[1]
    assert [CLASSES[label] for label in labels[:4]] == ["ankle boot", "t-shirt", "t-shirt", "dress"]


def test_bundle_is_small_and_licensed() -> None:
    names = {f"{name}.bz2" for name in data.SHA256}
    assert {path.name for path in data.BUNDLE.iterdir()} == names | {"LICENSE"}
    assert sum((data.BUNDLE / name).stat().st_size for name in names) <= 6e6
    assert "Copyright (c) 2017 Zalando SE" in (data.BUNDLE / "LICENSE").read_text()


def test_bundled_file_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "BUNDLE", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"t10k-images-idx3-ubyte\.bz2 .*Reinstall"):
        fashion_mnist("test")


@pytest.mark.parametrize("damage", [lambda packed: packed[:-9], lambda packed: bz2.compress(b"other data")])
def test_bundled_file_damaged(
    damage: Callable[[bytes], bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = "t10k-images-idx3-ubyte.bz2"
    (tmp_path / file).write_bytes(damage((data.BUNDLE / file).read_bytes()))
    monkeypatch.setattr(data, "BUNDLE", tmp_path)
    with pytest.raises(ValueError, match=r"t10k-images-idx3-ubyte\.bz2 is .*damaged.*\. Reinstall lessons_lib\.$"):
        fashion_mnist("test")


# Arguments


@pytest.mark.parametrize(
    ("split", "options", "error", "message"),
    [
        ("val", {}, ValueError, 'split: expected "train" or "test", got \'val\''),
        ("Train", {}, ValueError, 'split: expected "train" or "test", got \'Train\''),
        (0, {}, TypeError, 'split: expected "train" or "test", got 0'),
        (["train"], {}, TypeError, 'split: expected "train" or "test", got [\'train\']'),
        ("test", {"full": 1}, TypeError, "full: expected a bool, got 1"),
        ("test", {"full": None}, TypeError, "full: expected a bool, got None"),
        ("test", {"full": True, "root": 3}, TypeError, "root: expected a path, got 3"),
        ("test", {"root": "elsewhere"}, ValueError, "root: expected None unless full=True, "),
    ],
)
def test_wrong_argument(split: object, options: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^{re.escape(message)}"):
        fashion_mnist(split, **options)


def test_a_file_has_a_known_name_and_a_path() -> None:
    for name in ("labels", None):
        with pytest.raises(ValueError, match=f"^name: expected one of train-images-idx3-ubyte, .*, got {name!r}$"):
            data.read_whole(name)
    with pytest.raises(TypeError, match="^path: expected a path, got 3$"):
        read_idx(3, "", REMEDY)


# The reader


@settings(deadline=None)
@given(
    shape=st.lists(st.integers(1, 5), min_size=1, max_size=4), suffix=st.sampled_from(list(PACK)), seed=st.integers()
)
def test_reader_returns_what_was_written(
    shape: list[int], suffix: str, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    size = torch.Size(shape).numel()
    values = random.Random(seed).randbytes(size)
    path = tmp_path_factory.getbasetemp() / f"array{suffix}"
    path.write_bytes(PACK[suffix](idx(values, *shape)))
    array = read_idx(path, sha256(idx(values, *shape)), REMEDY)
    assert (list(array.shape), array.dtype) == (shape, torch.uint8)
    assert bytes(array.flatten().tolist()) == values


@settings(max_examples=200, deadline=None)
@given(suffix=st.sampled_from(list(PACK)), chosen=st.randoms(use_true_random=False))
def test_reader_refuses_a_truncated_file(
    suffix: str, chosen: random.Random, tmp_path_factory: pytest.TempPathFactory
) -> None:
    unpacked = idx(bytes(range(24)), 2, 3, 4)
    packed = PACK[suffix](unpacked)
    path = tmp_path_factory.getbasetemp() / f"array{suffix}"
    path.write_bytes(packed[: chosen.randrange(len(packed))])
    with pytest.raises(ValueError, match=rf"array{suffix} is .*damaged.*{REMEDY}"):
        read_idx(path, sha256(unpacked), REMEDY)


@settings(deadline=None)
@given(at=st.integers(0, 39), by=st.integers(1, 255))
def test_reader_refuses_a_changed_byte(at: int, by: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    unpacked = idx(bytes(range(24)), 2, 3, 4)
    changed = bytearray(unpacked)
    changed[at] = (changed[at] + by) % 256
    path = tmp_path_factory.getbasetemp() / "array.gz"
    path.write_bytes(gzip.compress(changed))
    with pytest.raises(ValueError) as caught:
        read_idx(path, sha256(unpacked), REMEDY)
    assert all(part in str(caught.value) for part in (str(path), sha256(changed), sha256(unpacked), REMEDY))


@pytest.mark.parametrize(
    "unpacked",
    [
        b"",
        b"\0\0\x08",
        idx(b"12345", 6),
        idx(b"1234567", 6),
        idx(b"", 2, 3, 4)[:-1],
        b"\0\0\x0d" + idx(b"123456", 6)[3:],  # floats
        b"\x89PNG" + bytes(60),
    ],
)
def test_reader_refuses_what_is_no_idx_file(unpacked: bytes, tmp_path: Path) -> None:
    path = tmp_path / "array"
    path.write_bytes(unpacked)
    with pytest.raises(ValueError, match=f"array is not a complete IDX file.*{REMEDY}"):
        read_idx(path, sha256(unpacked), REMEDY)


# The whole set, from a folder


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("split", ["train", "test"])
def test_full_from_a_folder(
    split: str, suffix: str, whole: dict[str, bytes], tmp_path: Path, mirror: Mirror, use: Callable[..., None]
) -> None:
    use("good")
    put(tmp_path, {name: whole[name] for name in data.FILES[split]}, suffix)  # the other split is not needed
    assert_is_whole(fashion_mnist(split, full=True, root=str(tmp_path)), whole, split)
    assert mirror.asked == []


@pytest.mark.parametrize(
    "compress",
    [
        lambda unpacked: gzip.compress(unpacked, 1, mtime=0),
        lambda unpacked: gzip.compress(unpacked[:99]) + gzip.compress(unpacked[99:]),  # two members, as pigz may write
        lambda unpacked: (
            (c := zlib.compressobj(6, zlib.DEFLATED, 31, 9, zlib.Z_HUFFMAN_ONLY)).compress(unpacked) + c.flush()
        ),
    ],
)
def test_full_from_another_compressor(
    compress: Callable[[bytes], bytes], whole: dict[str, bytes], tmp_path: Path
) -> None:
    for name in TRAIN:
        packed = compress(whole[name])
        assert packed != gzip.compress(whole[name], mtime=0)
        (tmp_path / f"{name}.gz").write_bytes(packed)
    assert_is_whole(fashion_mnist("train", full=True, root=tmp_path), whole)


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("damage", ["corrupt", "truncated"])
def test_damaged_file_of_the_user_is_kept(
    damage: str, suffix: str, whole: dict[str, bytes], tmp_path: Path, mirror: Mirror, use: Callable[..., None]
) -> None:
    use("good")
    put(tmp_path, whole, suffix)
    path = tmp_path / f"{TRAIN[1]}{suffix}"
    unpacked = whole[TRAIN[1]][:-1] + b"?"
    packed = PACK[suffix](unpacked) if damage == "corrupt" else path.read_bytes()[:-5]
    path.write_bytes(packed)
    with pytest.raises(ValueError) as caught:
        fashion_mnist("train", full=True, root=tmp_path)
    assert str(path) in str(caught.value) and str(caught.value).endswith(". Delete the file to get it downloaded anew.")
    if damage == "corrupt":
        assert sha256(unpacked) in str(caught.value) and data.SHA256[TRAIN[1]] in str(caught.value)
    assert path.read_bytes() == packed and mirror.asked == []
    path.unlink()  # as told
    assert_is_whole(fashion_mnist("train", full=True, root=tmp_path), whole)


# The whole set, from the mirrors


def test_download_happens_once_and_only_of_what_is_missing(
    whole: dict[str, bytes], tmp_path: Path, mirror: Mirror, use: Callable[..., None]
) -> None:
    use("good", "failing")
    root = tmp_path / "new" / "folder"
    for _ in range(2):
        assert_is_whole(fashion_mnist("train", full=True, root=root), whole)
        assert mirror.asked == [("good", f"{name}.gz") for name in TRAIN]
    assert {path.name for path in root.iterdir()} == {f"{name}.gz" for name in TRAIN}
    (root / f"{TRAIN[1]}.gz").unlink()
    assert_is_whole(fashion_mnist("train", full=True, root=root), whole)
    assert mirror.asked[2:] == [("good", f"{TRAIN[1]}.gz")]


@pytest.mark.parametrize("variable", ["XDG_CACHE_HOME", "HOME"])
def test_download_goes_to_the_cache_of_the_user(
    variable: str, tmp_path: Path, use: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    use("good")
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv(variable, str(tmp_path))
    fashion_mnist("train", full=True)
    cache = tmp_path if variable == "XDG_CACHE_HOME" else tmp_path / ".cache"
    assert {path.name for path in (cache / "lessons_lib" / "fashion_mnist").iterdir()} == {f"{n}.gz" for n in TRAIN}


DEAD = {
    "missing": "404",
    "forbidden": "403",
    "failing": "500",
    "corrupt": "SHA-256",
    "truncated": "truncated",
    "cut": "truncated",
    "empty": "SHA-256",
    "notice": "truncated or damaged",
    "dropped": "without response",
}


@pytest.mark.parametrize("kind", [*DEAD, "stalled"])
def test_dead_mirror_is_passed_over(
    kind: str,
    whole: dict[str, bytes],
    tmp_path: Path,
    mirror: Mirror,
    use: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    use(kind, "good")
    if kind == "stalled":
        monkeypatch.setattr(data, "TIMEOUT", 1.0)
    put(tmp_path, {TRAIN[0]: whole[TRAIN[0]]})
    assert_is_whole(fashion_mnist("train", full=True, root=tmp_path), whole)
    assert [asked for asked, _ in mirror.asked] == [kind, kind, "good"]
    assert {path.name for path in tmp_path.iterdir()} == {f"{name}.gz" for name in TRAIN}


def test_mirror_may_send_elsewhere_but_not_in_circles(
    whole: dict[str, bytes], tmp_path: Path, mirror: Mirror, use: Callable[..., None]
) -> None:
    use("moved")
    assert_is_whole(fashion_mnist("train", full=True, root=tmp_path / "moved"), whole)
    use("circling")
    with pytest.raises(ConnectionError, match="infinite loop"):
        fashion_mnist("train", full=True, root=tmp_path / "circling")
    use("circling", "good")
    assert_is_whole(fashion_mnist("train", full=True, root=tmp_path / "circling"), whole)


def test_mirror_gets_a_second_chance(
    whole: dict[str, bytes], tmp_path: Path, mirror: Mirror, use: Callable[..., None]
) -> None:
    use("flaky", "failing")
    assert_is_whole(fashion_mnist("train", full=True, root=tmp_path), whole)
    assert {asked for asked, _ in mirror.asked} == {"flaky"} and len(mirror.asked) == 4


def test_mirror_need_not_announce_the_size(whole: dict[str, bytes], tmp_path: Path, use: Callable[..., None]) -> None:
    use("unannounced")
    assert_is_whole(fashion_mnist("train", full=True, root=tmp_path), whole)


def test_all_mirrors_dead(
    tmp_path: Path, mirror: Mirror, use: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    use(*DEAD)
    monkeypatch.setattr(data, "MIRRORS", (*data.MIRRORS, "http://127.0.0.1:1/"))
    with pytest.raises(ConnectionError) as caught:
        fashion_mnist("train", full=True, root=tmp_path)
    _, *lines, by_hand = str(caught.value).splitlines()
    for line, (kind, reason) in zip(lines, [*DEAD.items(), ("", "refused")], strict=True):
        assert (mirror.url(kind) if kind else "http://127.0.0.1:1/") in line and reason in line
    assert all(f"{name}.gz" in by_hand for name in data.SHA256) and str(tmp_path) in by_hand
    assert isinstance(caught.value.__cause__, OSError) and "refused" in str(caught.value.__cause__)
    assert list(tmp_path.iterdir()) == []


def test_what_went_wrong_is_told_word_for_word(
    whole: dict[str, bytes], tmp_path: Path, mirror: Mirror, use: Callable[..., None]
) -> None:
    use("corrupt", "failing")
    with pytest.raises(ConnectionError) as caught:
        fashion_mnist("train", full=True, root=tmp_path)
    name = TRAIN[0]
    came, files = sha256(whole[name][:-1] + b"?"), ", ".join(f"{name}.gz" for name in data.SHA256)
    first, second = map(mirror.url, ("corrupt", "failing"))
    assert str(caught.value) == (
        f"{name}.gz could not be downloaded from any mirror:\n"
        f"  {first}: ValueError: {first}{name}.gz is damaged: SHA-256 {came} unpacked, expected {data.SHA256[name]}.\n"
        f"  {second}: HTTPError: HTTP Error 500: Internal Server Error\n"
        f"By hand: download {files} from one of them and put them into {tmp_path}"
    )


@pytest.mark.parametrize(("kind", "announced"), [("good", True), ("unannounced", False)])
def test_a_bar_shows_how_much_of_which_file_has_come(
    kind: str,
    announced: bool,
    tmp_path: Path,
    mirror: Mirror,
    use: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bars = []

    class Bar(list):
        def __init__(self, **settings: object) -> None:
            bars.append((settings, self))

        def __enter__(self) -> list[int]:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        update = list.append

    monkeypatch.setattr(data, "tqdm", Bar)
    use(kind)
    fashion_mnist("train", full=True, root=tmp_path)
    for name, (options, steps) in zip(TRAIN, bars, strict=True):
        size = len(mirror.files[f"{name}.gz"])
        shown = dict(desc=f"{name}.gz", unit="B", unit_scale=True, leave=False)
        assert options == shown | dict(total=size if announced else None) and sum(steps) == size


def test_real_mirrors_are_several() -> None:
    assert len(set(REAL_MIRRORS)) >= 2
    assert all(mirror.startswith("http") and mirror.endswith("/") for mirror in REAL_MIRRORS)


@pytest.mark.parametrize("below", ["", "deeper"])
def test_root_that_cannot_be_a_folder(below: str, tmp_path: Path, mirror: Mirror, use: Callable[..., None]) -> None:
    use("good")
    file = tmp_path / "file"
    file.write_text("mine")
    with pytest.raises(OSError, match=r"train-images.*missing.*root cannot be written") as caught:
        fashion_mnist("train", full=True, root=file / below)
    assert str(file) in str(caught.value)
    assert file.read_text() == "mine" and mirror.asked == []  # told before a byte was fetched


def test_root_without_permission(
    tmp_path: Path, mirror: Mirror, use: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, **_: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    use("good")
    monkeypatch.setattr(Path, "touch", refuse)  # the modes of a folder would not stop a superuser
    with pytest.raises(PermissionError, match=r"root cannot be written \(Permission denied\)"):
        fashion_mnist("train", full=True, root=tmp_path)
    assert mirror.asked == []


# Interrupted


def test_bytes_are_proven_before_they_get_their_name(
    whole: dict[str, bytes], tmp_path: Path, use: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = []

    def replace(source: Path, target: Path) -> None:
        assert source.parent == target.parent and not target.exists()
        assert sha256(gzip.decompress(source.read_bytes())) == data.SHA256[target.stem]
        moved.append(target.name)
        source.rename(target)

    use("corrupt", "good")
    monkeypatch.setattr(data.os, "replace", replace)
    assert_is_whole(fashion_mnist("train", full=True, root=tmp_path), whole)
    assert moved == [f"{name}.gz" for name in TRAIN]


def test_interrupt_while_bytes_come(
    whole: dict[str, bytes], tmp_path: Path, use: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Impatient(data.tqdm):
        def update(self, n: float | None = 1) -> None:
            assert [path.suffix for path in tmp_path.iterdir()] == [".part"]
            raise KeyboardInterrupt

    use("good")
    with monkeypatch.context() as patch:
        patch.setattr(data, "tqdm", Impatient)
        with pytest.raises(KeyboardInterrupt):
            fashion_mnist("train", full=True, root=tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert_is_whole(fashion_mnist("train", full=True, root=tmp_path), whole)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")])
def test_failure_at_the_last_step(
    error: BaseException, tmp_path: Path, use: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error

    use("good")
    monkeypatch.setattr(data.os, "replace", fail)
    with pytest.raises(type(error)) as caught:
        fashion_mnist("train", full=True, root=tmp_path)
    if isinstance(error, OSError):
        assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(tmp_path))
    assert list(tmp_path.iterdir()) == []


DOWNLOAD = """
import os, resource, sys
from lessons_lib import data

os.environ["no_proxy"] = "*"  # to ask macOS for its proxies after a fork can be fatal
sys.stderr = open(os.devnull, "w")
data.MIRRORS, data.SHA256 = (url,), hashes
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    data.fashion_mnist("train", full=True, root=root)
except Exception as error:
    failure.send(str(error))
    sys.exit(1)
"""


class Download:
    """A process that fetches the training set into a folder from one mirror, and can write `limit` bytes to a file."""

    def __init__(self, url: str, root: Path, limit: int = resource.RLIM_INFINITY) -> None:
        self.failure, failure = context.Pipe(duplex=False)
        names = dict(url=url, hashes=data.SHA256, root=root, limit=limit, failure=failure)
        self.process = context.Process(target=exec, args=(DOWNLOAD, names), daemon=True)
        self.process.start()

    def exit_status(self) -> int | None:
        self.process.join(60)
        return self.process.exitcode


def suffixes(root: Path) -> set[str]:
    return {path.suffix for path in root.glob("*")}


def test_killed_downloads_leave_nothing_that_is_trusted_and_recover(
    whole: dict[str, bytes], tmp_path: Path, mirror: Mirror, use: Callable[..., None]
) -> None:
    roots, rng = [tmp_path / str(number) for number in range(30)], random.Random(0)
    for number, root in enumerate(roots):
        download = Download(mirror.url("unfinished"), root)
        # At any moment; in every third run for certain in the middle of the images, and in every third between the two.
        wanted = (None, ".part", ".gz")[number % 3]
        for _ in range(6000):
            if wanted is None or wanted in suffixes(root):
                break
            time.sleep(0.01)
        else:
            pytest.fail(f"no {wanted} file came in a minute")
        time.sleep(rng.uniform(0, 0.2 if wanted is None else 0.02))
        download.process.kill()
        assert download.exit_status() == -signal.SIGKILL
    use("good")
    left = [suffixes(root) for root in roots]
    assert {".part", ".gz"} <= set().union(*left)  # some in a file, some between the two
    for root in roots:
        for path in root.glob("*"):
            assert path.suffix == ".part" or gzip.decompress(path.read_bytes()) == whole[path.stem]
        assert_is_whole(fashion_mnist("train", full=True, root=root), whole)


def test_processes_that_download_at_once_do_not_disturb_each_other(
    whole: dict[str, bytes], tmp_path: Path, mirror: Mirror, use: Callable[..., None]
) -> None:
    together = [Download(mirror.url("meeting"), tmp_path) for _ in range(4)]
    assert [download.exit_status() for download in together] == [0] * 4
    assert len(mirror.asked) == 8  # each had begun before another was done
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(f"{name}.gz" for name in data.FILES["train"])
    use("missing")  # what lies there is enough
    assert_is_whole(fashion_mnist("train", full=True, root=tmp_path), whole)


def test_disk_that_is_full_keeps_no_part(
    whole: dict[str, bytes], tmp_path: Path, mirror: Mirror, use: Callable[..., None]
) -> None:
    """The system refuses to write more than 1,000 bytes: the limit of a process stands for a disk without room."""
    download = Download(mirror.url("good"), tmp_path, limit=1000)
    assert download.exit_status() == 1
    told = download.failure.recv()
    assert "train-images-idx3-ubyte.gz came whole, but could not be stored in root (File too large)" in told
    assert str(tmp_path) in told
    assert list(tmp_path.iterdir()) == []
    use("good")
    assert_is_whole(fashion_mnist("train", full=True, root=tmp_path), whole)


# The tool


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setattr(sys, "path", list(sys.path))
    spec = importlib.util.spec_from_file_location("build_subset", REPOSITORY / "tools" / "build_subset.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_tool_keeps_the_first_of_each_class(
    tool: ModuleType,
    whole: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    per_class = {"train": 3, "test": 1}
    bundle, root = tmp_path / "bundle", tmp_path / "whole"
    root.mkdir()
    monkeypatch.setattr(tool, "PER_CLASS", per_class)
    monkeypatch.setattr(data, "BUNDLE", bundle)
    # The rule once more, in the plainest words: walk through the file, keep what is still wanted.
    wanted = {}
    for split, (images, labels) in data.FILES.items():
        pixels, kept, count = b"", [], dict.fromkeys(range(10), 0)
        for at, kind in enumerate(whole[labels][8:]):
            if count[kind] < per_class[split]:
                count[kind] += 1
                kept.append(kind)
                pixels += whole[images][16 + at * 784 :][:784]
        wanted[images] = bz2.compress(idx(pixels, len(kept), 28, 28))
        wanted[labels] = bz2.compress(idx(bytes(kept), len(kept)))
    put(root, whole)

    assert tool.main(["--root", str(root), "--check"]) == 1 and not bundle.exists()
    assert tool.main(["--root", str(root)]) == 0
    assert {path.stem: path.read_bytes() for path in bundle.iterdir()} == wanted
    assert tool.main(["--root", str(root), "--check"]) == 0
    changed = bundle / f"{TRAIN[1]}.bz2"
    changed.write_bytes(b"other")
    capsys.readouterr()
    assert tool.main(["--root", str(root), "--check"]) == 1
    assert str(changed) in capsys.readouterr().err and changed.read_bytes() == b"other"


def test_tool_needs_enough_of_each_class(tool: ModuleType) -> None:
    with pytest.raises(ValueError, match=r"labels must hold 2 of each class, got fewer of \[7\]"):
        tool.first_of_each_class(torch.tensor([*range(10), *range(7), 8, 9]), 2)


def test_bundle_is_packed_again_byte_for_byte_and_rebuilt_where_the_whole_set_is_at_hand(tool: ModuleType) -> None:
    # Debian's dataset-fashion-mnist, or what `python -m lessons_lib data` fetched
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "lessons_lib", "fashion_mnist")
    at_hand = [
        folder
        for folder in (Path("/usr/share/datasets/fashion-mnist"), cache)
        if all((folder / name).is_file() or (folder / f"{name}.gz").is_file() for name in data.SHA256)
    ]
    for folder in at_hand:
        assert tool.main(["--root", str(folder), "--check"]) == 0
    # Without the whole set the rule cannot be redone, but the last step can: array, IDX, bzip2, same bytes.
    for name, digest in data.BUNDLE_SHA256.items():
        path = data.BUNDLE / f"{name}.bz2"
        assert bz2.compress(tool.idx_bytes(read_idx(path, digest, REMEDY)), 9) == path.read_bytes()


def test_tool_runs_as_a_program(whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, whole)  # too few of each class, so the program must refuse them
    program = str(REPOSITORY / "tools" / "build_subset.py")
    monkeypatch.setattr(sys, "argv", [program, "--check", "--root", str(tmp_path)])
    monkeypatch.setattr(sys, "path", [])  # it finds the library of its own checkout, wherever it is run
    with pytest.raises(ValueError, match=r"^labels must hold 1000 of each class, got fewer of \[0, 1, .*, 9\]$"):
        runpy.run_path(program, run_name="__main__")
    assert sys.path == [str(REPOSITORY)]
