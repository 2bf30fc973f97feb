"""What training looks at, decoded once and kept on disk: what the stem makes of each picture, or
the pictures themselves.

On a CPU the stem, which costs two thirds of a forward pass, stays as it is, so that an epoch over
its cached output takes a third of the time; about 0.17 MB for a picture of 512x512. On a GPU all of
the network learns.

A folder holds `maps.bin`, one record after the other, and `index.jsonl`, a line a record, written
after it. What a kill leaves half-written is cut off when the folder is opened again.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from qinsight_plugin.errors import ConfigError
from qinsight_plugin.student.network import (
    AnyStudent,
    StemOutput,
    device_of,
    half_precision,
)

Pixels: TypeAlias = npt.NDArray[np.uint8]
Half: TypeAlias = npt.NDArray[np.float16]
S = TypeVar("S", StemOutput, Tensor)
CELL = 16
"""Pixels to a cell of the stem's map, in each direction."""

STEP = 128
"""Windows of pictures are squares of so many pixels or a multiple: each further size costs a GPU
seconds to prepare for."""


@dataclass(frozen=True, slots=True)
class Record:
    """Where something lies: of a stem's output float16 [height, width, channels], then float32
    [shallow]; of a picture uint8 [height, width, 3].

    Attributes:
        about: JSON values that whoever added it wants back.
    """

    key: str
    offset: int
    height: int
    width: int
    about: Any = None


class Cache(ABC, Generic[S]):
    """What training looks at, by key, in a folder that outlives the process.

    Args:
        folder: made where it is missing.
        origin: what filled it; a folder that something else filled is refused.

    Raises:
        ConfigError: the folder was filled otherwise.
    """

    def __init__(self, folder: Path, origin: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        require_origin(folder, origin)
        self._index_path = folder / "index.jsonl"
        maps = folder / "maps.bin"
        maps.touch()
        self._maps = maps.open("r+b", buffering=0)
        there = maps.stat().st_size
        records = [r for r in read_index(self._index_path) if self._after(r) <= there]
        self._records = {record.key: record for record in records}
        self._end = max(map(self._after, records), default=0)
        self._maps.truncate(self._end)
        write_whole(self._index_path, "".join(map(line_of, self._records.values())))
        self._index = self._index_path.open("a", encoding="utf-8")

    def __len__(self) -> int:
        return len(self._records)

    def __contains__(self, key: str) -> bool:
        return key in self._records

    def __getitem__(self, key: str) -> Record:
        return self._records[key]

    @abstractmethod
    def move(self, device: str) -> None:
        """Have pictures on that device from now on."""

    def close(self) -> None:
        self._index.close()
        self._maps.close()

    def have(self, key: str, pixels: Pixels | None, *, exact: bool = False) -> Record:
        """The record of that key, made from the pixels where there is none yet."""
        if key in self or pixels is None:
            return self[key]
        return self.add(key, pixels, exact=exact)

    def add(self, key: str, pixels: Pixels, about: Any = None, *, exact: bool = False) -> Record:
        """Keep what there is to keep of uint8 [H, W, 3], `exact` if it is to be measured on."""
        height, width, data = self._made_of(pixels, exact)
        record = Record(key, self._end, height, width, about)
        self._maps.seek(self._end)
        self._maps.write(data)
        self._index.write(line_of(record))
        self._index.flush()
        self._end = self._after(record)
        self._records[key] = record
        return record

    def whole(self, record: Record) -> S:
        """One picture, uncropped."""
        return self.all_of([record])

    @abstractmethod
    def all_of(self, records: Sequence[Record]) -> S:
        """Pictures of one size, uncropped."""

    @abstractmethod
    def cropped(self, records: Sequence[Record], side: int, rng: np.random.Generator) -> S:
        """A batch of random windows, `side` cells (16 pixels each) wide and high, or less where
        the smallest picture of the batch has less."""

    @abstractmethod
    def aligned(
        self, versions: Sequence[Sequence[Record]], side: int, rng: np.random.Generator
    ) -> S:
        """As `cropped`, with one window for all versions of one picture; the pictures follow one
        another in the batch."""

    @abstractmethod
    def _made_of(self, pixels: Pixels, exact: bool) -> tuple[int, int, bytes]:
        """Height and width of the record, and its bytes."""

    @abstractmethod
    def _after(self, record: Record) -> int:
        """Where the next record begins."""

    def _bytes(self, record: Record) -> bytes:
        self._maps.seek(record.offset)
        return self._maps.read(self._after(record) - record.offset)


class StemCache(Cache[StemOutput]):
    """What the student's stem makes of pictures, for training the rest of it on a CPU.

    Args:
        half: compute it in half precision, see `half_precision`, but where it is to be exact.
    """

    def __init__(self, folder: Path, student: AnyStudent, *, half: bool = False) -> None:
        self._student = student
        self._half = half
        self._channels = student.stem_channels
        self._shallow = student.stem_shallow
        digest = hashlib.sha256()
        for tensor in student.stem_state().values():
            digest.update(tensor.contiguous().numpy().tobytes())
        if half:
            digest.update(b"half precision")
        super().__init__(folder, digest.hexdigest())

    def move(self, device: str) -> None:
        """They are read from the disk each time, and go to where the student is by themselves."""

    def all_of(self, records: Sequence[Record]) -> StemOutput:
        return stack([self._read(record) for record in records])

    def cropped(self, records: Sequence[Record], side: int, rng: np.random.Generator) -> StemOutput:
        height, width = common_window(records, side)
        return stack([window(*self._read(r), height, width, rng) for r in records])

    def aligned(
        self, versions: Sequence[Sequence[Record]], side: int, rng: np.random.Generator
    ) -> StemOutput:
        height, width = common_window([own[0] for own in versions], side)
        return stack(
            [
                window(*self._read(record), height, width, np.random.default_rng(seed))
                for seed, own in zip(rng.integers(2**31, size=len(versions)), versions, strict=True)
                for record in own
            ]
        )

    @torch.inference_mode()
    def _made_of(self, pixels: Pixels, exact: bool) -> tuple[int, int, bytes]:
        with half_precision(device_of(self._student), self._half and not exact):
            stem = self._student.stem(torch.from_numpy(np.array(pixels[None])))
        feature_map = stem.feature_map[0].permute(1, 2, 0).half().contiguous().numpy()
        height, width = feature_map.shape[:2]
        return height, width, feature_map.tobytes() + stem.shallow[0].numpy().tobytes()

    def _after(self, record: Record) -> int:
        cells = record.height * record.width
        return record.offset + 2 * cells * self._channels + 4 * self._shallow

    def _read(self, record: Record) -> tuple[Half, npt.NDArray[np.float32]]:
        data = self._bytes(record)
        split = len(data) - 4 * self._shallow
        feature_map = np.frombuffer(data[:split], np.float16)
        shape = (record.height, record.width, self._channels)
        return feature_map.reshape(shape), np.frombuffer(data[split:], np.float32)


class PictureCache(Cache[Tensor]):
    """The pictures themselves, packed, for training all of the network.

    The file is mapped; moved to a GPU, all of them lie in its memory, 0.8 MB for a picture of
    512x512. Half of the windows are mirrored.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / "maps.bin"
        super().__init__(folder, "pictures")
        self.move("cpu")

    def move(self, device: str) -> None:
        self._device = device
        self._packed = torch.zeros(0, dtype=torch.uint8)

    def all_of(self, records: Sequence[Record]) -> Tensor:
        return torch.stack([self._load(record) for record in records])

    def cropped(self, records: Sequence[Record], side: int, rng: np.random.Generator) -> Tensor:
        return self.aligned([[record] for record in records], side, rng)

    def aligned(
        self, versions: Sequence[Sequence[Record]], side: int, rng: np.random.Generator
    ) -> Tensor:
        largest = min(common_window([own[0] for own in versions], CELL * side))
        side = largest // STEP * STEP or largest
        windows = []
        for own in versions:
            top = rng.integers(own[0].height - side + 1)
            left = rng.integers(own[0].width - side + 1)
            mirrored = rng.random() < 0.5
            for record in own:
                view = self._load(record)[top : top + side, left : left + side]
                windows.append(view.flip(1) if mirrored else view)
        return torch.stack(windows)

    def _load(self, record: Record) -> Tensor:
        """uint8 [H, W, 3] on the device."""
        end = self._after(record)
        if end > len(self._packed):
            mapped = np.memmap(self._path, np.uint8, "c")
            self._packed = torch.from_numpy(mapped).to(self._device)
        return self._packed[record.offset : end].view(record.height, record.width, 3)

    def _made_of(self, pixels: Pixels, exact: bool) -> tuple[int, int, bytes]:
        return *pixels.shape[:2], pixels.tobytes()

    def _after(self, record: Record) -> int:
        return record.offset + 3 * record.height * record.width


def of_one_size(records: Sequence[Record], most: int = 16) -> Iterator[list[Record]]:
    """The records, in order, in batches for `Cache.all_of`."""
    for _, group in itertools.groupby(records, lambda record: (record.height, record.width)):
        alike = list(group)
        yield from (alike[start : start + most] for start in range(0, len(alike), most))


def common_window(records: Sequence[Record], side: int) -> tuple[int, int]:
    """The largest window, up to `side` each way, that all of them hold."""
    return min(side, *(r.height for r in records)), min(side, *(r.width for r in records))


def window(
    feature_map: Half,
    shallow: npt.NDArray[np.float32],
    height: int,
    width: int,
    rng: np.random.Generator,
) -> tuple[Half, npt.NDArray[np.float32]]:
    rows, columns = feature_map.shape[:2]
    top, left = rng.integers(rows - height + 1), rng.integers(columns - width + 1)
    return feature_map[top : top + height, left : left + width], shallow


def stack(parts: Sequence[tuple[Half, npt.NDArray[np.float32]]]) -> StemOutput:
    maps = torch.from_numpy(np.stack([feature_map for feature_map, _ in parts]))
    shallow = torch.from_numpy(np.stack([shallow for _, shallow in parts]))
    return StemOutput(maps.permute(0, 3, 1, 2).float(), shallow)


def require_origin(folder: Path, origin: str) -> None:
    """Compare with what filled the folder, or note it in a new one."""
    note = folder / "stem.txt"
    if not note.exists():
        write_whole(note, origin + "\n")
    elif note.read_text("ascii").strip() != origin:
        raise ConfigError(
            f"{folder} was filled by a network with another stem or precision; name another "
            "folder, or delete it"
        )


def line_of(record: Record) -> str:
    return json.dumps([record.key, record.offset, record.height, record.width, record.about]) + "\n"


def read_index(path: Path) -> list[Record]:
    """The records of all whole lines; what follows a broken one was written after it, and goes."""
    records: list[Record] = []
    if path.exists():
        for line in path.read_bytes().splitlines():
            try:
                records.append(Record(*json.loads(line)))
            except (ValueError, TypeError):
                break
    return records


def write_whole(path: Path, text: str) -> None:
    """A kill leaves the file as it was, or as it is to be."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, "utf-8")
    temporary.replace(path)
