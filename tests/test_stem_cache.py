"""The cache of stem outputs: true to the stem, and whole again after any kill."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qinsight_plugin.errors import ConfigError
from qinsight_plugin.student.cache import StemCache
from qinsight_plugin.student.network import StemOutput, Student

from .conftest import ROOT, Pixels
from .toy import toy_student

KEYS = ("a", "b", "c", "d")


@pytest.fixture(scope="module")
def student() -> Student:
    return toy_student()


@pytest.fixture
def cache(tmp_path: Path, student: Student) -> Iterator[StemCache]:
    with closing(StemCache(tmp_path / "stem", student)) as cache:
        yield cache


def picture(number: int) -> Pixels:
    """Noise; no two of one size."""
    shape = (48 + 16 * number, 80, 3)
    return np.random.default_rng(number).integers(0, 256, shape, np.uint8)


def stem_of(student: Student, pixels: Pixels) -> StemOutput:
    with torch.inference_mode():
        return student.stem(torch.from_numpy(pixels[None]))


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory, student: Student) -> Path:
    """A cache of four records, closed."""
    folder = tmp_path_factory.mktemp("filled")
    with closing(StemCache(folder, student)) as cache:
        for number, key in enumerate(KEYS):
            cache.add(key, picture(number), about=[number, None])
    return folder


def require_whole(cache: StemCache, student: Student, keys: tuple[str, ...]) -> None:
    """The cache holds these records and no other, and each is what the stem makes."""
    assert len(cache) == len(keys)
    for key in keys:
        stem = stem_of(student, picture(KEYS.index(key)))
        assert (cache.whole(cache[key]).feature_map == stem.feature_map.half().float()).all()
        assert (cache.whole(cache[key]).shallow == stem.shallow).all()


def test_what_is_read_is_what_the_stem_gives(cache: StemCache, student: Student) -> None:
    """Maps in half precision, the rest as it is."""
    for number, key in enumerate(KEYS):
        cache.add(key, picture(number))
    require_whole(cache, student, KEYS)


def test_through_the_cache_the_tail_gives_what_the_network_gives(
    cache: StemCache, student: Student, astronaut: Pixels
) -> None:
    record = cache.add("astronaut", astronaut)
    with torch.inference_mode():
        through_cache = student.tail(cache.whole(record)).mos.item()
        whole = student.tail(student.stem(torch.from_numpy(astronaut[None].copy()))).mos.item()
    assert through_cache == pytest.approx(whole, abs=0.01)


def test_a_cache_that_is_opened_again_finds_its_records(filled: Path, student: Student) -> None:
    with closing(StemCache(filled, student)) as cache:
        require_whole(cache, student, KEYS)


@pytest.mark.parametrize("about", [None, 0.1 + 0.2, [1.5, None], {"a": ["b\n", "é\u2028"]}])
def test_what_is_noted_with_a_record_comes_back(
    tmp_path: Path, student: Student, about: object
) -> None:
    with closing(StemCache(tmp_path, student)) as cache:
        assert cache.add("a", picture(0), about=about).about == about
    with closing(StemCache(tmp_path, student)) as cache:
        assert cache["a"].about == about


def test_a_record_is_made_once(cache: StemCache) -> None:
    first = cache.have("a", picture(0))
    assert cache.have("a", None) is first
    assert cache.have("a", picture(1)) is first
    assert "a" in cache
    assert "b" not in cache
    with pytest.raises(KeyError):
        cache.have("b", None)


def copied(folder: Path, name: str) -> Path:
    copy = folder.with_name(name)
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(folder, copy)
    return copy


@settings(max_examples=15)
@given(st.data())
def test_whatever_a_kill_leaves_half_written_goes_and_the_rest_stays(
    filled: Path, student: Student, data: st.DataObject
) -> None:
    """Either file cut at any byte: kept are the records that are whole in both, and one that is
    added then is kept as well."""
    folder = copied(filled, "cut")
    maps, index = folder / "maps.bin", folder / "index.jsonl"
    ends = [json.loads(line)[1] for line in index.read_text().splitlines()][1:]
    ends.append(maps.stat().st_size)
    lines = index.read_bytes()
    kept_bytes = data.draw(st.integers(0, ends[-1]))
    kept_text = data.draw(st.integers(0, len(lines)))
    os.truncate(maps, kept_bytes)
    os.truncate(index, kept_text)
    # A line is whole where only its end of line is missing.
    noted = sum(m.end() <= kept_text for m in re.finditer(rb"[^\n]+", lines))
    whole = min(noted, sum(end <= kept_bytes for end in ends))
    with closing(StemCache(folder, student)) as cache:
        require_whole(cache, student, KEYS[:whole])
        if whole < len(KEYS):
            cache.add(KEYS[whole], picture(whole))
    with closing(StemCache(folder, student)) as cache:
        require_whole(cache, student, KEYS[: whole + 1])


@pytest.mark.parametrize("rubbish", [b'["d", 12, 3', b"\x00\x00\x00\n", b'{"no": 1}\n', b"\xff\n"])
def test_a_broken_last_line_of_the_index_is_dropped(
    filled: Path, student: Student, rubbish: bytes
) -> None:
    folder = copied(filled, "broken")
    index = folder / "index.jsonl"
    index.write_bytes(b"".join(index.read_bytes().splitlines(keepends=True)[:3]) + rubbish)
    with closing(StemCache(folder, student)) as cache:
        require_whole(cache, student, KEYS[:3])


def test_another_stem_is_refused(filled: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"filled by a network with another stem or precision; name another"
    ):
        StemCache(filled, toy_student(seed=1))


@pytest.mark.parametrize("has", [True, False])
def test_half_precision_is_near_and_for_processors_that_have_it(
    tmp_path: Path, student: Student, monkeypatch: pytest.MonkeyPatch, has: bool
) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: has)
    expected = stem_of(student, picture(0))
    with closing(StemCache(tmp_path, student, half=True)) as cache:
        stem = cache.whole(cache.add("a", picture(0)))
        exact = cache.whole(cache.add("b", picture(0), exact=True))
    assert torch.equal(exact.shallow, expected.shallow)
    assert bool((stem.shallow == expected.shallow).all()) != has
    for half, full in zip(stem, expected, strict=True):
        assert (half - full).norm() < 0.02 * full.norm()  # 8 bits for a number
    with pytest.raises(ConfigError, match="with another stem or precision; name another"):
        StemCache(tmp_path, student)


def test_other_heads_and_another_tail_are_welcome(filled: Path, student: Student) -> None:
    """Training changes them; the stem stays."""
    other = toy_student(seed=1)
    other.load_state_dict(
        {f"features.{key}": value for key, value in student.stem_state().items()}, strict=False
    )
    with closing(StemCache(filled, other)) as cache:
        assert len(cache) == len(KEYS)


def test_a_stem_is_known_again_in_another_memory_layout(filled: Path) -> None:
    turned = toy_student().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    with closing(StemCache(filled, turned)) as cache:
        assert len(cache) == len(KEYS)


def test_aligned_windows_of_equal_maps_are_equal(cache: StemCache) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (160, 208, 3), np.uint8)
    records = [cache.add(key, pixels) for key in "ab"]
    rng = np.random.default_rng(0)
    drawn = [cache.aligned([records], 3, rng) for _ in range(20)]
    assert {tuple(stem.feature_map.shape) for stem in drawn} == {(2, 64, 3, 3)}
    assert all((stem.feature_map[0] == stem.feature_map[1]).all() for stem in drawn)
    assert any((stem.feature_map != drawn[0].feature_map).any() for stem in drawn)


def test_a_window_is_a_part_of_the_map_and_every_part_may_come(cache: StemCache) -> None:
    """A map of 3x5 cells has 2x4 windows of 2x2."""
    record = cache.add("a", picture(0))
    whole = cache.whole(record).feature_map[0]
    corners = {
        (top, left): whole[:, top : top + 2, left : left + 2]
        for top in range(2)
        for left in range(4)
    }
    rng = np.random.default_rng(0)
    found = set()
    for _ in range(100):
        (window,) = cache.cropped([record], 2, rng).feature_map
        found |= {corner for corner, part in corners.items() if (part == window).all()}
    assert found == corners.keys()


def test_a_batch_is_cropped_to_its_smallest_map(cache: StemCache) -> None:
    records = [cache.add(key, picture(number)) for number, key in enumerate(KEYS)]
    stem = cache.cropped(records, 20, np.random.default_rng(0))
    assert stem.feature_map.shape == (4, 64, 3, 5)
    assert (stem.shallow[3] == cache.whole(records[3]).shallow[0]).all()


WRITER = """
import sys
from pathlib import Path
from tests.test_stem_cache import picture
from tests.toy import toy_student
from qinsight_plugin.student.cache import StemCache
cache = StemCache(Path(sys.argv[1]), toy_student())
for number in range(10_000):
    cache.add(f"picture {number}", picture(number % 4))
    print(number, flush=True)
"""


@pytest.mark.slow
def test_a_writer_that_is_killed_loses_nothing_that_it_had_written(
    tmp_path: Path, student: Student
) -> None:
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, tmp_path], stdout=subprocess.PIPE, cwd=ROOT
    )
    with writer:
        assert writer.stdout is not None
        for _ in range(10):
            said = writer.stdout.readline()
        writer.send_signal(signal.SIGKILL)
    assert int(said) == 9
    with closing(StemCache(tmp_path, student)) as cache:
        assert len(cache) >= 10
        for number in range(len(cache)):
            stem = stem_of(student, picture(number % 4))
            read = cache.whole(cache[f"picture {number}"])
            torch.testing.assert_close(read.feature_map, stem.feature_map, rtol=1e-3, atol=1e-3)
