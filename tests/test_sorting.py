from __future__ import annotations

import errno
import os
import random
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import qinsight_plugin
from qinsight_plugin.errors import ConfigError, ImageNotFoundError, ImageUnreadableError
from qinsight_plugin.sorting import copy_into, move_into, write_into

if sys.platform == "win32":
    pytest.skip("these tests use links, permissions and forks of POSIX", allow_module_level=True)

import resource

HOME = Path(qinsight_plugin.__file__).parents[1]
BOTH = pytest.mark.parametrize("sort", [move_into, copy_into])

Sort = Callable[..., Path]


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Path]:
    """A folder on another file system than tmp_path."""
    memory = Path("/dev/shm")
    if not memory.is_dir() or memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("needs a second file system at /dev/shm")
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


@pytest.fixture
def no_links(monkeypatch: pytest.MonkeyPatch) -> None:
    """FAT answers EPERM to link(2)."""
    monkeypatch.setattr(os, "link", refusing(errno.EPERM))


def refusing(code: int) -> Callable[..., None]:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    return refuse


def picture(path: Path, data: bytes = b"picture") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def files_in(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_moved_picture_leaves_its_folder_and_keeps_its_identity(tmp_path: Path) -> None:
    source = picture(tmp_path / "in" / "a.jpg")
    before = source.stat()
    target = move_into(source, tmp_path / "new" / "folder")
    assert target == tmp_path / "new" / "folder" / "a.jpg"
    assert files_in(tmp_path) == {"new/folder/a.jpg": b"picture"}
    assert (target.stat().st_ino, target.stat().st_nlink) == (before.st_ino, 1)


def test_a_copy_has_the_times_and_permissions_of_its_source_and_a_life_of_its_own(
    tmp_path: Path,
) -> None:
    source = picture(tmp_path / "in" / "a.jpg")
    source.chmod(0o640)
    os.utime(source, (1_000_000_000, 1_100_000_000))
    target = copy_into(str(source), str(tmp_path / "out"))
    assert (target.stat().st_mode, target.stat().st_mtime) == (0o100640, 1_100_000_000)
    target.write_bytes(b"retouched")
    assert files_in(tmp_path) == {"in/a.jpg": b"picture", "out/a.jpg": b"retouched"}


@BOTH
def test_a_taken_name_gets_a_number_and_nothing_is_overwritten(sort: Sort, tmp_path: Path) -> None:
    out = tmp_path / "out"
    names = [sort(picture(tmp_path / str(n) / "a.b.jpg", b"%d" % n), out).name for n in range(3)]
    assert names == ["a.b.jpg", "a.b-1.jpg", "a.b-2.jpg"]
    assert files_in(out) == {"a.b.jpg": b"0", "a.b-1.jpg": b"1", "a.b-2.jpg": b"2"}


@BOTH
def test_a_name_may_also_be_taken_by_a_folder_or_a_dangling_link(
    sort: Sort, tmp_path: Path
) -> None:
    (tmp_path / "out" / "a.jpg").mkdir(parents=True)
    (tmp_path / "out" / "a-1.jpg").symlink_to("nowhere")
    assert sort(picture(tmp_path / "a.jpg"), tmp_path / "out").name == "a-2.jpg"


@BOTH
@pytest.mark.usefixtures("no_links")
def test_without_links_nothing_is_overwritten_either(sort: Sort, tmp_path: Path) -> None:
    out = tmp_path / "out"
    names = [sort(picture(tmp_path / str(n) / "a.jpg", b"%d" % n), out).name for n in range(3)]
    assert names == ["a.jpg", "a-1.jpg", "a-2.jpg"]
    assert files_in(out) == {"a.jpg": b"0", "a-1.jpg": b"1", "a-2.jpg": b"2"}
    assert len(files_in(tmp_path)) == (3 if sort is move_into else 6)


@pytest.mark.usefixtures("no_links")
def test_without_links_a_name_reserved_in_vain_is_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "replace", refusing(errno.EIO))
    with pytest.raises(ConfigError, match="cannot write to the folder"):
        move_into(picture(tmp_path / "a.jpg"), tmp_path / "out")
    assert files_in(tmp_path) == {"a.jpg": b"picture"}


@BOTH
def test_odd_names_survive(sort: Sort, tmp_path: Path) -> None:
    for name in ("no suffix", ".hidden", "new\nline.jpg", os.fsdecode(b"\xff.jpg"), "-rf"):
        assert sort(picture(tmp_path / name), tmp_path / "out").name == name


@BOTH
def test_the_folders_under_the_root_are_kept(
    sort: Sort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "pics"
    deep = picture(root / "day" / "one" / "a.jpg")
    assert sort(deep, tmp_path / "out", root) == tmp_path / "out" / "day" / "one" / "a.jpg"
    assert sort(picture(root / "b.jpg"), tmp_path / "out", root) == tmp_path / "out" / "b.jpg"
    monkeypatch.chdir(root)
    picture(root / "day" / "c.jpg")
    assert sort("day/c.jpg", root / "bad", ".") == root / "bad" / "day" / "c.jpg"


@BOTH
@pytest.mark.parametrize("path", ["other/a.jpg", "pics/../other/a.jpg", "pics2/a.jpg"])
def test_a_picture_outside_the_root_is_refused(sort: Sort, path: str, tmp_path: Path) -> None:
    picture(tmp_path / "pics" / "b.jpg")
    picture(tmp_path / path.replace("pics/../", ""))
    before = files_in(tmp_path)
    with pytest.raises(ConfigError, match="is not under the root"):
        sort(tmp_path / path, tmp_path / "out", tmp_path / "pics")
    assert files_in(tmp_path) == before


@BOTH
def test_a_picture_in_its_place_stays(sort: Sort, tmp_path: Path) -> None:
    source = picture(tmp_path / "out" / "sub" / "a.jpg")
    (tmp_path / "alias").symlink_to(tmp_path / "out")
    assert sort(source, source.parent) == source
    assert sort(source, tmp_path / "alias", tmp_path / "out") == source
    assert files_in(tmp_path / "out") == {"sub/a.jpg": b"picture"}


@pytest.mark.parametrize("text", ["../album/a.jpg", "{tmp_path}/album/a.jpg"])
def test_a_moved_link_still_leads_to_its_picture(text: str, tmp_path: Path) -> None:
    original = picture(tmp_path / "album" / "a.jpg")
    link = tmp_path / "in" / "link.jpg"
    link.parent.mkdir()
    link.symlink_to(text.format(tmp_path=tmp_path))
    target = move_into(link, tmp_path / "out" / "deep")
    assert not os.path.lexists(link)
    assert target.is_symlink()
    assert target.samefile(original)


def test_a_moved_link_overwrites_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").symlink_to("nowhere")
    picture(tmp_path / "out" / "a.jpg")
    target = move_into(tmp_path / "a.jpg", tmp_path / "out")
    assert target == tmp_path / "out" / "a-1.jpg"
    assert target.readlink() == tmp_path.resolve() / "nowhere"


def test_of_a_link_the_picture_is_copied_under_the_links_name(tmp_path: Path) -> None:
    picture(tmp_path / "a.jpg")
    (tmp_path / "link.jpg").symlink_to("a.jpg")
    target = copy_into(tmp_path / "link.jpg", tmp_path / "out")
    assert not target.is_symlink()
    assert files_in(tmp_path / "out") == {"link.jpg": b"picture"}


@BOTH
def test_a_source_that_is_not_there_is_named_and_makes_no_folder(
    sort: Sort, tmp_path: Path
) -> None:
    with pytest.raises(ImageNotFoundError, match=r"^there is no file '.*gone\.jpg'$"):
        sort(tmp_path / "gone.jpg", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@BOTH
def test_only_files_are_sorted(sort: Sort, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    picture(tmp_path / "file.jpg")
    for name in ("", "pipe.jpg", "file.jpg/under", "nul\0.jpg"):
        with pytest.raises(ImageUnreadableError) as caught:
            sort(os.path.join(tmp_path, name), tmp_path / "out")  # noqa: PTH118 - keep it untidied
        assert "\n" not in str(caught.value)


@BOTH
@pytest.mark.parametrize("folder", ["file", "file/under", "nul\0", "x" * 300])
def test_a_directory_that_cannot_be_made_is_refused_and_the_picture_stays(
    sort: Sort, folder: str, tmp_path: Path
) -> None:
    picture(tmp_path / "file")
    source = picture(tmp_path / "new\nline.jpg")
    with pytest.raises(ConfigError, match=r"^cannot make the folder [^\n]+$"):
        sort(source, tmp_path / folder)
    assert files_in(tmp_path) == {"file": b"picture", "new\nline.jpg": b"picture"}


@BOTH
def test_a_directory_that_cannot_be_written_to_is_refused(sort: Sort, own: Path) -> None:
    (own / "out").mkdir(mode=0o500)
    with pytest.raises(ConfigError, match=r"^cannot write to the folder [^\n]+$"):
        sort(picture(own / "a.jpg"), own / "out")
    assert files_in(own) == {"a.jpg": b"picture"}


def test_a_picture_that_may_not_leave_its_folder_stays_alone(own: Path) -> None:
    source = picture(own / "in" / "a.jpg")
    source.parent.chmod(0o500)
    with pytest.raises(ImageUnreadableError, match=r"^cannot move [^\n]+ Permission denied$"):
        move_into(source, own / "out")
    assert files_in(own) == {"in/a.jpg": b"picture"}


def test_a_picture_that_may_not_be_read_can_be_moved_and_not_copied(own: Path) -> None:
    source = picture(own / "a.jpg")
    source.chmod(0)
    with pytest.raises(ImageUnreadableError, match=r"^cannot read [^\n]+ Permission denied$"):
        copy_into(source, own / "out")
    assert list((own / "out").iterdir()) == []
    assert move_into(source, own / "out").stat().st_size == len(b"picture")


@pytest.mark.parametrize("folder", ["elsewhere", "tmp_path"])
def test_a_full_disk_leaves_the_source_and_nothing_else(
    folder: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if folder == "tmp_path":
        request.getfixturevalue("no_links")
    out: Path = request.getfixturevalue(folder) / "out"
    source = picture(tmp_path / "a.jpg", b"x" * 100_000)
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, old[1]))
    try:
        with pytest.raises(ConfigError, match=r"^cannot write to the folder [^\n]+$"):
            move_into(source, out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert files_in(out) == {}
    assert source.stat().st_size == 100_000


@pytest.mark.skipif(not Path("/proc/version").exists(), reason="needs Linux's /proc")
def test_a_source_that_cannot_be_removed_stays_alone(tmp_path: Path) -> None:
    with pytest.raises(ImageUnreadableError, match=r"^cannot move '/proc/version' out of its "):
        move_into("/proc/version", tmp_path)
    assert files_in(tmp_path) == {}
    assert copy_into("/proc/version", tmp_path).read_bytes() == Path("/proc/version").read_bytes()


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs Linux's /proc")
@BOTH
def test_a_source_that_cannot_be_read_leaves_nothing_behind(sort: Sort, tmp_path: Path) -> None:
    with pytest.raises(ImageUnreadableError, match=r"^cannot read '/proc/self/mem': [^\n]+$"):
        sort("/proc/self/mem", tmp_path)
    assert files_in(tmp_path) == {}


@BOTH
def test_a_source_that_grows_while_it_is_copied_is_left_for_another_time(
    sort: Sort, tmp_path: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = picture(tmp_path / "a.jpg")

    def append_and_sync(descriptor: int, sync: Callable[[int], None] = os.fsync) -> None:
        with source.open("ab") as file:
            file.write(b" with more to come")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", append_and_sync)
    with pytest.raises(ImageUnreadableError, match="was changed while it was copied"):
        sort(source, elsewhere)
    assert files_in(elsewhere) == {}
    assert source.read_bytes() == b"picture with more to come"


def test_a_move_to_another_file_system_keeps_content_times_and_permissions(
    tmp_path: Path, elsewhere: Path
) -> None:
    data = random.Random(0).randbytes(3_000_000)
    source = picture(tmp_path / "a.jpg", data)
    source.chmod(0o640)
    os.utime(source, (1_000_000_000, 1_100_000_000))
    picture(elsewhere / "a.jpg", b"first")
    target = move_into(source, elsewhere)
    assert (target.stat().st_mode, target.stat().st_mtime) == (0o100640, 1_100_000_000)
    assert files_in(elsewhere) == {"a.jpg": b"first", "a-1.jpg": data}
    assert not source.exists()


@pytest.mark.parametrize(
    ("code", "moved"), [(errno.EIO, False), (errno.EINVAL, True)], ids=["EIO", "EINVAL"]
)
def test_the_source_goes_only_when_the_new_name_is_on_the_disk(
    code: int, moved: bool, tmp_path: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sync(descriptor: int, sync: Callable[[int], None] = os.fsync) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(code, os.strerror(code))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", sync)
    source = picture(tmp_path / "a.jpg")
    if moved:
        move_into(source, elsewhere)
    else:
        with pytest.raises(ConfigError, match="cannot write to the folder"):
            move_into(source, elsewhere)
    assert source.exists() != moved
    assert files_in(elsewhere) == {"a.jpg": b"picture"}


def test_an_answer_of_other_file_system_from_every_call_still_ends_in_a_move(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = picture(tmp_path / "a.jpg")
    for name in ("link", "rename"):
        monkeypatch.setattr(os, name, refusing(errno.EXDEV))
    move_into(source, tmp_path / "out")
    assert files_in(tmp_path) == {"out/a.jpg": b"picture"}


def start(code: str, *arguments: object, **options: Any) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, cwd=HOME, stdout=subprocess.PIPE, **options)


SHUTTLE = """
import sys
from pathlib import Path
from qinsight_plugin.sorting import move_into

here, there = map(Path, sys.argv[1:])
print("ready", flush=True)
while True:
    for path in sorted(here.glob("*.jpg")):
        move_into(path, there)
    here, there = there, here
"""


@pytest.mark.parametrize("other", ["tmp_path", "elsewhere"])
def test_killing_the_mover_at_any_moment_loses_nothing_and_leaves_no_part(
    other: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    chance = random.Random(7)
    contents = {b"%02d" % number + chance.randbytes(100_000) for number in range(20)}
    here, there = tmp_path / "here", request.getfixturevalue(other) / "there"
    there.mkdir()
    for number, data in enumerate(sorted(contents)):
        picture(here / f"{number}.jpg", data)
    for _ in range(8):
        with start(SHUTTLE, here, there) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            time.sleep(chance.uniform(0, 0.04))
            process.kill()
        found = [path.read_bytes() for folder in (here, there) for path in folder.glob("*.jpg")]
        assert set(found) == contents


CRASH_AT_EACH_STEP = """
import os, sys
from pathlib import Path
from qinsight_plugin.sorting import move_into

def crash_at(step):
    steps = 0
    def count(event, _):
        nonlocal steps
        if event == "open" or event.startswith(("os.", "shutil.", "tempfile.")):
            steps += 1
            if steps == step:
                os._exit(9)
    sys.addaudithook(count)

def exit_code_of_move(step):
    source = Path(sys.argv[1], str(step), "a.jpg")
    source.parent.mkdir(parents=True)
    source.write_bytes(b"picture")
    pid = os.fork()
    if pid == 0:
        try:
            crash_at(step)
            move_into(source, Path(sys.argv[2], str(step)))
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

step = 1
while exit_code_of_move(step) == 9:
    step += 1
print(step)
"""


@pytest.mark.parametrize(("other", "least_steps"), [("tmp_path", 4), ("elsewhere", 10)])
def test_a_crash_before_any_step_of_a_move_leaves_the_picture_whole(
    other: str, least_steps: int, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    here, there = tmp_path / "here", request.getfixturevalue(other) / "there"
    with start(CRASH_AT_EACH_STEP, here, there) as process:
        assert process.stdout is not None
        steps = int(process.stdout.read())
    assert steps >= least_steps
    for step in range(1, steps + 1):
        left = [*(here / str(step)).glob("*.jpg"), *(there / str(step)).glob("*.jpg")]
        assert left
        assert {path.read_bytes() for path in left} == {b"picture"}
    assert files_in(there / str(steps)) == {"a.jpg": b"picture"}
    assert files_in(here / str(steps)) == {}


RIVAL = """
import os, sys
from pathlib import Path
from qinsight_plugin.sorting import move_into

if sys.argv[3] == "no links":
    def link(*_):
        raise PermissionError
    os.link = link
print("ready", flush=True)
sys.stdin.readline()
for path in sorted(Path(sys.argv[1]).glob("*/a.jpg")):
    move_into(path, sys.argv[2])
"""


@pytest.mark.parametrize(("links", "number_each"), [("links", 200), ("no links", 50)])
def test_two_processes_that_move_the_same_names_into_one_folder_lose_nothing(
    links: str, number_each: int, tmp_path: Path
) -> None:
    rivals = [tmp_path / name for name in ("one", "two")]
    for rival in rivals:
        for number in range(
            number_each
        ):  # all of one name: the next free number is always fought over
            picture(rival / str(number) / "a.jpg", f"{rival.name} {number}".encode())
    processes = [
        start(RIVAL, rival, tmp_path / "out", links, stdin=subprocess.PIPE) for rival in rivals
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(b"go\n")
        process.stdin.flush()
    for process in processes:
        process.communicate(timeout=30)
        assert process.returncode == 0
    assert sorted(files_in(tmp_path / "out").values()) == sorted(
        f"{rival.name} {number}".encode() for rival in rivals for number in range(number_each)
    )
    assert all(files_in(rival) == {} for rival in rivals)


def test_what_is_no_file_is_not_replaced_by_one(tmp_path: Path) -> None:
    """As root, -o /dev/null would else put a file in the place of the device."""
    for name, make in (("pipe", os.mkfifo), ("folder", os.mkdir)):
        make(tmp_path / name)
        with pytest.raises(ConfigError, match=f"{name}' is not a file"):
            write_into(b"x", tmp_path / name, overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "pipe"]
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
