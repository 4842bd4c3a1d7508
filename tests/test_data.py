"""The bundled subset is what it says, and no way to get the whole set ends in data that are not Fashion-MNIST."""

import bz2
import errno
import gzip
import hashlib
import os
import random
import re
import runpy
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lessons_lib import data
from lessons_lib.data import CLASSES, fashion_mnist, read_idx
from tests.processes import in_processes
from tools import build_subset

REPOSITORY = Path(__file__).resolve().parents[1]
IMAGES, LABELS = data.FILES["train"]
PACKED = [f"{IMAGES}.gz", f"{LABELS}.gz"]
REFUSED = "http://127.0.0.1:1/"
REMEDY = "What to do."
PACK: dict[str, Callable[[bytes], bytes]] = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress}
bundled = cache(fashion_mnist)


def idx(values: bytes, *shape: int) -> bytes:
    return struct.pack(f">HBB{len(shape)}I", 0, 8, len(shape), *shape) + values


def sha256(unpacked: bytes) -> str:
    return hashlib.sha256(unpacked).hexdigest()


def names(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir())


class Mirror(ThreadingHTTPServer):
    """Answers /KIND/FILE.gz as a mirror of that kind would; `asked` lists what it was asked for."""

    daemon_threads = False  # so that closing waits for every answer
    request_queue_size = 32

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.patch = patch
        self.asked: list[tuple[str, str]] = []
        self.end = threading.Event()
        self.meeting = threading.Barrier(4)
        # A small "whole set": the unpacked bytes of four files, which the library now takes for the true ones.
        self.whole = {}
        rng = random.Random(0)
        for (images, labels), count in zip(data.FILES.values(), (150, 60), strict=True):
            kinds = [*range(10)] * 3 + rng.choices(range(10), k=count - 30)
            rng.shuffle(kinds)
            self.whole[images] = idx(rng.randbytes(count * 784), count, 28, 28)
            self.whole[labels] = idx(bytes(kinds), count)
        patch.setattr(data, "SHA256", {name: sha256(unpacked) for name, unpacked in self.whole.items()})

    def url(self, kind: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{kind}/"

    def use(self, *kinds: str) -> None:
        """Let the library know mirrors of these kinds, and no others."""
        self.patch.setattr(data, "MIRRORS", tuple(map(self.url, kinds)))
        self.asked.clear()

    def put(self, root: Path, suffix: str = ".gz") -> None:
        for name, unpacked in self.whole.items():
            (root / f"{name}{suffix}").write_bytes(PACK[suffix](unpacked))

    def assert_fetches_all(self, root: str | Path, split: str = "train") -> None:
        images, labels = fashion_mnist(split, full=True, root=root).tensors
        pixels, kinds = (self.whole[name] for name in data.FILES[split])
        assert (images.shape, images.dtype) == ((len(kinds) - 8, 1, 28, 28), torch.float32)
        assert (labels.shape, labels.dtype) == ((len(kinds) - 8,), torch.int64)
        assert bytes(labels.tolist()) == kinds[8:]
        assert images.mul(255).round().byte().numpy().tobytes() == pixels[16:]

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
        unpacked = self.server.whole[file.removesuffix(".gz")]
        if kind == "flaky":
            kind = "good" if again else "failing"
        if kind == "stalled":
            self.server.end.wait()
        elif kind in ("missing", "failing"):
            self.send_error({"missing": 404, "failing": 500}[kind])
        elif kind in ("moved", "circling"):
            self.send_response(302)
            self.send_header("Location", self.server.url("good" if kind == "moved" else kind) + file)
            self.end_headers()
        elif kind != "dropped":  # which hangs up without a word
            packed = gzip.compress(unpacked)
            body = {
                "corrupt": gzip.compress(unpacked[:-1] + b"?"),
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
                self.wfile.write(body[len(body) * part // 20 : len(body) * (part + 1) // 20])


@pytest.fixture
def mirror(monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    server = Mirror(monkeypatch)
    server.use("good")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.end.set()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a test does, it asks no real mirror and no proxy."""
    monkeypatch.setattr(data, "MIRRORS", (REFUSED,))
    monkeypatch.setenv("no_proxy", "*")


# The bundled subset


@pytest.mark.parametrize(("split", "per_class"), [("train", 1000), ("test", 200)])
def test_subset_is_balanced_scaled_and_what_people_know(split: str, per_class: int) -> None:
    images, labels = bundled(split).tensors
    assert (images.shape, images.dtype) == ((10 * per_class, 1, 28, 28), torch.float32)
    assert (labels.shape, labels.dtype) == ((10 * per_class,), torch.int64)
    assert labels.bincount().tolist() == [per_class] * len(CLASSES)
    assert (images.min(), images.max()) == (0, 1)
    assert torch.equal(images, images.mul(255).round().div(255))
    assert len(images.flatten(1).unique(dim=0)) > 9.9 * per_class  # pictures, not one picture many times
    known = dict(train=["ankle boot", "t-shirt", "t-shirt"], test=["ankle boot", "pullover", "trouser"])
    assert [CLASSES[label] for label in labels[:3]] == known[split]


def test_bundle_is_small_licensed_and_packed_as_the_tool_would() -> None:
    files = {data.BUNDLE / f"{name}.bz2": digest for name, digest in data.BUNDLE_SHA256.items()}
    assert set(data.BUNDLE.iterdir()) == {*files, data.BUNDLE / "LICENSE"}
    assert sum(path.stat().st_size for path in files) <= 6e6
    assert "Copyright (c) 2017 Zalando SE" in (data.BUNDLE / "LICENSE").read_text()
    for path, digest in files.items():
        assert bz2.compress(build_subset.idx_bytes(read_idx(path, digest, REMEDY)), 9) == path.read_bytes()


def test_bundled_file_missing_or_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "BUNDLE", tmp_path)
    with pytest.raises(FileNotFoundError, match=rf"{IMAGES}\.bz2 is missing\. Reinstall lessons_lib\.$"):
        fashion_mnist("train")
    (tmp_path / f"{IMAGES}.bz2").write_bytes(bz2.compress(b"other data"))
    with pytest.raises(ValueError, match=rf"{IMAGES}\.bz2 is truncated or damaged .*\. Reinstall lessons_lib\.$"):
        fashion_mnist("train")


# The reader


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., torch.Tensor]:
    """What the reader makes of a file with this content."""

    def read(content: bytes, unpacked: bytes, suffix: str = "") -> torch.Tensor:
        path = tmp_path_factory.getbasetemp() / f"array{suffix}"
        path.write_bytes(content)
        return read_idx(path, sha256(unpacked), REMEDY)

    return read


@settings(deadline=None)
@given(
    shape=st.lists(st.integers(1, 5), min_size=1, max_size=4), suffix=st.sampled_from(list(PACK)), seed=st.integers()
)
def test_reader_returns_what_was_written(shape: list[int], suffix: str, seed: int, read: Callable) -> None:
    values = random.Random(seed).randbytes(torch.Size(shape).numel())
    unpacked = idx(values, *shape)
    array = read(PACK[suffix](unpacked), unpacked, suffix)
    assert (list(array.shape), array.dtype) == (shape, torch.uint8)
    assert bytes(array.flatten().tolist()) == values


SMALL = idx(bytes(range(24)), 2, 3, 4)


@settings(max_examples=200, deadline=None)
@given(suffix=st.sampled_from(list(PACK)), at=st.integers(0, 39), by=st.integers(0, 255))
def test_reader_refuses_a_truncated_file_and_a_changed_byte(suffix: str, at: int, by: int, read: Callable) -> None:
    changed = SMALL[:at] + bytes([(SMALL[at] + by) % 256]) + SMALL[at + 1 :]
    damaged = PACK[suffix](changed) if by else PACK[suffix](SMALL)[:at]
    came = f"SHA-256 {sha256(changed)} unpacked, expected {sha256(SMALL)}" if by else ".+"
    with pytest.raises(ValueError, match=rf"array{suffix} is truncated or damaged \({came}\)\. {REMEDY}$"):
        read(damaged, SMALL, suffix)


@pytest.mark.parametrize(
    "unpacked",
    [b"", b"\0\0\x08", idx(b"12345", 6), idx(b"1234567", 6), b"\0\0\x0d" + idx(b"123456", 6)[3:], idx(b"", 9)[:-1]],
)
def test_reader_refuses_what_is_not_an_idx_file(unpacked: bytes, read: Callable) -> None:
    with pytest.raises(ValueError, match=f"array is not a complete IDX file.*{REMEDY}"):
        read(unpacked, unpacked)


def test_whole_files_are_known_by_name() -> None:
    for name in ("labels", None):
        with pytest.raises(ValueError, match=f"^name: expected one of train-images-idx3-ubyte, .*, got {name!r}$"):
            data.read_whole(name)


# The whole set, from a folder


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("split", ["train", "test"])
def test_full_from_a_folder(split: str, suffix: str, tmp_path: Path, mirror: Mirror) -> None:
    for name in data.FILES[split]:  # the other split is not needed
        (tmp_path / f"{name}{suffix}").write_bytes(PACK[suffix](mirror.whole[name]))
    mirror.assert_fetches_all(str(tmp_path), split)
    assert mirror.asked == []


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_damaged_file_of_the_user_is_kept(suffix: str, tmp_path: Path, mirror: Mirror) -> None:
    mirror.put(tmp_path, suffix)
    path = tmp_path / f"{LABELS}{suffix}"
    for damaged in (PACK[suffix](mirror.whole[LABELS][:-1] + b"?"), path.read_bytes()[:-5]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError) as caught:
            fashion_mnist("train", full=True, root=tmp_path)
        assert str(caught.value).startswith(f"{path} is truncated or damaged (")
        assert str(caught.value).endswith("). Delete the file to get it downloaded anew.")
        assert path.read_bytes() == damaged and mirror.asked == []
    path.unlink()  # as told
    mirror.assert_fetches_all(tmp_path)


# The whole set, from the mirrors


def test_download_happens_once_and_only_of_what_is_missing(tmp_path: Path, mirror: Mirror) -> None:
    mirror.use("good", "failing")
    root = tmp_path / "new" / "folder"
    for _ in range(2):
        mirror.assert_fetches_all(root)
        assert mirror.asked == [("good", name) for name in PACKED] and names(root) == sorted(PACKED)
    (root / PACKED[1]).unlink()
    mirror.assert_fetches_all(root)
    assert mirror.asked[2:] == [("good", PACKED[1])]


@pytest.mark.parametrize("variable", ["XDG_CACHE_HOME", "HOME"])
def test_download_goes_to_the_cache_of_the_user(
    variable: str, tmp_path: Path, mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv(variable, str(tmp_path))
    fashion_mnist("train", full=True)
    cache = tmp_path if variable == "XDG_CACHE_HOME" else tmp_path / ".cache"
    assert names(cache / "lessons_lib" / "fashion_mnist") == sorted(PACKED)


DEAD = {
    "missing": "404",
    "failing": "500",
    "corrupt": "SHA-256",
    "truncated": "truncated",
    "cut": "truncated",
    "empty": "SHA-256",
    "notice": "truncated or damaged",
    "dropped": "without response",
    "circling": "infinite loop",
    "stalled": "timed out",
}


@pytest.mark.parametrize("kind", DEAD)
def test_dead_mirror_is_passed_over(kind: str, tmp_path: Path, mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "TIMEOUT", 0.5)
    mirror.put(tmp_path)
    (tmp_path / PACKED[1]).unlink()
    mirror.use(kind, "good")
    mirror.assert_fetches_all(tmp_path)
    asked = [kind for kind, _ in mirror.asked]
    assert asked == [kind, kind, "good"] if kind != "circling" else {*asked} == {kind, "good"}
    assert names(tmp_path) == sorted(f"{name}.gz" for name in mirror.whole)


@pytest.mark.parametrize(("kind", "requests"), [("moved", 4), ("flaky", 4), ("unannounced", 2)])
def test_mirror_may_send_elsewhere_fail_once_and_not_announce_the_size(
    kind: str, requests: int, tmp_path: Path, mirror: Mirror
) -> None:
    mirror.use(kind, "failing")
    mirror.assert_fetches_all(tmp_path)
    assert len(mirror.asked) == requests and "failing" not in dict(mirror.asked)


def test_all_mirrors_dead(tmp_path: Path, mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "TIMEOUT", 0.5)
    mirror.use(*DEAD)
    monkeypatch.setattr(data, "MIRRORS", (*data.MIRRORS, REFUSED))
    with pytest.raises(ConnectionError) as caught:
        fashion_mnist("train", full=True, root=tmp_path)
    first, *lines, by_hand = re.split(r"\n(?=  http|By hand)", str(caught.value))
    assert first == f"{PACKED[0]} could not be downloaded from any mirror:"
    for line, (kind, reason) in zip(lines, [*DEAD.items(), (None, "refused")], strict=True):
        assert line.startswith(f"  {mirror.url(kind) if kind else REFUSED}: ") and reason in line
    corrupt = lines[list(DEAD).index("corrupt")]
    url, came = mirror.url("corrupt"), sha256(mirror.whole[IMAGES][:-1] + b"?")
    assert corrupt == (
        f"  {url}: ValueError: {url}{PACKED[0]} is truncated or damaged (SHA-256 {came} unpacked, "
        f"expected {data.SHA256[IMAGES]})."
    )
    files = ", ".join(f"{name}.gz" for name in data.SHA256)
    assert by_hand == f"By hand: download {files} from one of them and put them into {tmp_path}"
    assert isinstance(caught.value.__cause__, OSError) and "refused" in str(caught.value.__cause__)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["good", "unannounced"])
def test_a_bar_shows_which_file_comes(
    kind: str, tmp_path: Path, mirror: Mirror, capsys: pytest.CaptureFixture[str]
) -> None:
    mirror.use(kind)
    fashion_mnist("train", full=True, root=tmp_path)
    bars = capsys.readouterr().err
    for name in PACKED:
        size = (tmp_path / name).stat().st_size
        assert re.search(rf"{name}:   0%.* 0/{size} .*B/s" if kind == "good" else f"{name}: 0B .*B/s", bars)
    assert bars.endswith(" \r")  # it goes when all is there


# What cannot be written, or is interrupted


@pytest.mark.parametrize("below", ["", "deeper"])
def test_root_that_cannot_be_a_folder(below: str, tmp_path: Path, mirror: Mirror) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    with pytest.raises(OSError, match=r"train-images.*missing.*root cannot be written") as caught:
        fashion_mnist("train", full=True, root=file / below)
    assert str(file) in str(caught.value)
    assert file.read_text() == "mine" and mirror.asked == []  # told before a byte was fetched


DENIED = PermissionError(errno.EACCES, "Permission denied")
FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    ("place", "name", "error", "requests"),
    [
        (Path, "touch", DENIED, 0),  # the modes of a folder would not stop a superuser; told before a byte was fetched
        (data.tqdm, "update", KeyboardInterrupt(), 1),
        (Path, "write_bytes", FULL, 1),
        (os, "replace", FULL, 1),
        (os, "replace", KeyboardInterrupt(), 1),
    ],
    ids=["no permission", "interrupt while bytes come", "full", "full at the last step", "interrupt at the last step"],
)
def test_what_stops_a_download_leaves_nothing(
    place: object, name: str, error: BaseException, requests: int, tmp_path: Path, mirror: Mirror
) -> None:
    killed = tmp_path / f"{PACKED[0]}.0.part"  # what a process leaves that is killed before the last step
    killed.write_bytes(b"half")

    def stop(*_: object, **__: object) -> None:
        assert [path.suffix for path in tmp_path.iterdir()] == [".part"] * (1 + requests)
        raise error

    with pytest.MonkeyPatch.context() as patch, pytest.raises(type(error)) as caught:
        patch.setattr(place, name, stop)
        fashion_mnist("train", full=True, root=tmp_path)
    if isinstance(error, OSError):
        assert (caught.value.errno, caught.value.filename) == (error.errno, str(tmp_path))
        assert f"{PACKED[0]} is missing in root, and root cannot be written ({error.strerror})" in str(caught.value)
    assert len(mirror.asked) == requests and list(tmp_path.iterdir()) == [killed]
    mirror.assert_fetches_all(tmp_path)


def download(url: str, hashes: dict[str, str], root: Path) -> str:
    """In a process of its own: fetch the training set from one mirror."""
    os.environ["no_proxy"] = "*"  # to ask macOS for its proxies after a fork can be fatal
    data.MIRRORS, data.SHA256 = (url,), hashes
    fashion_mnist("train", full=True, root=root)
    return "done"


def test_processes_that_download_at_once_do_not_disturb_each_other(tmp_path: Path, mirror: Mirror) -> None:
    arguments = mirror.url("meeting"), data.SHA256, tmp_path
    assert in_processes(download, *arguments, count=4, joined=False) == ["done"] * 4
    assert len(mirror.asked) == 8 and names(tmp_path) == sorted(PACKED)  # each had begun before another was done
    mirror.use("missing")  # what lies there is enough
    mirror.assert_fetches_all(tmp_path)


# The tool


def test_tool_keeps_the_first_of_each_class(
    mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    per_class = {"train": 3, "test": 1}
    bundle, root = tmp_path / "bundle", tmp_path / "whole"
    root.mkdir()
    mirror.put(root)
    monkeypatch.setattr(build_subset, "PER_CLASS", per_class)
    monkeypatch.setattr(data, "BUNDLE", bundle)
    # The rule once more, in the plainest words: walk through the file, keep what is still wanted.
    wanted = {}
    for split, (images, labels) in data.FILES.items():
        pixels, kept = b"", []
        for at, kind in enumerate(mirror.whole[labels][8:]):
            if kept.count(kind) < per_class[split]:
                kept.append(kind)
                pixels += mirror.whole[images][16 + at * 784 :][:784]
        wanted[images] = bz2.compress(idx(pixels, len(kept), 28, 28))
        wanted[labels] = bz2.compress(idx(bytes(kept), len(kept)))

    run = ["--root", str(root)]
    assert build_subset.main([*run, "--check"]) == 1 and not bundle.exists()
    assert build_subset.main(run) == 0
    assert {path.stem: path.read_bytes() for path in bundle.iterdir()} == wanted
    assert build_subset.main([*run, "--check"]) == 0
    changed = bundle / f"{LABELS}.bz2"
    changed.write_bytes(b"other")
    assert build_subset.main([*run, "--check"]) == 1
    assert str(changed) in capsys.readouterr().err.splitlines()[-1] and changed.read_bytes() == b"other"


def test_tool_runs_as_a_program(tmp_path: Path, mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    mirror.put(tmp_path)  # too few of each class, so the program must refuse them
    program = str(REPOSITORY / "tools" / "build_subset.py")
    monkeypatch.setattr(sys, "argv", [program, "--check", "--root", str(tmp_path)])
    monkeypatch.setattr(sys, "path", [])  # it finds the library of its own checkout, wherever it is run
    with pytest.raises(ValueError, match=r"^labels must hold 1000 of each class, got fewer of \[0, 1, .*, 9\]$"):
        runpy.run_path(program, run_name="__main__")
    assert sys.path == [str(REPOSITORY)]
