"""What else scores a picture without a reference, made ready for timing and for nothing else.

No model weights are fetched: the networks are built with random ones, and piq's support vectors
are random too. That changes their answers, which nobody reads, and not their time.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from qinsight_plugin.records import Pixels

Judge: TypeAlias = "Callable[[Pixels], object]"
"""Takes uint8 [H, W, 3], as a decoder gives them, to a score or to the features for one."""

BRISQUE_VECTORS, BRISQUE_FEATURES = 774, 36
"""The size of the machine that BRISQUE's authors released (Mittal et al., TIP 2012)."""


class UnavailableError(Exception):
    """A peer cannot be timed here; the message says why and, if it can be, what to install."""


@dataclass(frozen=True, slots=True)
class Peer:
    """A way to score pictures.

    Attributes:
        name: what the table calls it.
        package: what to install for it.
        module: what to import to see whether that is there.
        make: gets the module and makes the judge; raises UnavailableError, or whatever it likes.
        note: what about it is to be known when its time is read.
    """

    name: str
    package: str
    module: str
    make: Callable[[Any], Judge]
    note: str

    def ready(self) -> Judge:
        """Its judge.

        Raises:
            UnavailableError: it is not installed, or does not load.
        """
        try:
            return self.make(importlib.import_module(self.module))
        except UnavailableError:
            raise
        except Exception as error:  # a third party's module may raise anything
            if isinstance(error, ModuleNotFoundError) and error.name == self.module:
                raise UnavailableError(f"not installed: pip install {self.package}") from error
            raise UnavailableError(f"installed, does not load: {first_line(error)}") from error


def first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip()}".partition("\n")[0]


def hold_to(threads: int) -> None:
    """Hold the libraries under the peers, those that are loaded, to that many threads."""
    for library, setter in (("cv2", "setNumThreads"), ("torch", "set_num_threads")):
        if library in sys.modules:
            getattr(sys.modules[library], setter)(threads)


def laplacian(cv2: Any) -> Judge:
    """Variance of the Laplacian, the usual test for blur (Pech-Pacheco et al., ICPR 2000)."""

    def judge(pixels: Pixels) -> object:
        grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
        return cv2.Laplacian(grey, cv2.CV_64F).var()

    return judge


def opencv_brisque(cv2: Any) -> Judge:
    if not hasattr(cv2, "quality"):
        raise UnavailableError(
            "not installed: pip install opencv-contrib-python-headless in place of this OpenCV"
        )
    features: Judge = cv2.quality.QualityBRISQUE_computeFeatures
    return features


def piq_brisque(piq: Any) -> Judge:
    """piq's own code, in a copy that takes its support vectors from us.

    The original reads them from its cache at each call, and before the first from the network.
    """
    import torch

    spec = importlib.util.find_spec("piq.brisque")
    if spec is None or spec.loader is None:
        raise UnavailableError(f"piq {piq.__version__} has no module piq.brisque")
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def load_url(*_: object, **__: object) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.rand(BRISQUE_VECTORS), torch.rand(BRISQUE_VECTORS, BRISQUE_FEATURES)

    module.load_url = load_url
    return on_tensors(module.brisque)


def pyiqa_metric(name: str, **options: Any) -> Callable[[Any], Judge]:
    def make(pyiqa: Any) -> Judge:
        with random_backbones():
            return on_tensors(pyiqa.create_metric(name, device="cpu", pretrained=False, **options))

    return make


@contextmanager
def random_backbones() -> Iterator[None]:
    """While this lasts, timm fetches no weights; some of pyiqa's networks always ask for them."""
    timm: Any = importlib.import_module("timm")
    create = timm.create_model
    timm.create_model = lambda *names, **options: create(*names, **{**options, "pretrained": False})
    try:
        yield
    finally:
        timm.create_model = create


def on_tensors(metric: Callable[[Any], object]) -> Judge:
    """A metric of float [1, 3, H, W] in 0..1, and the making of that from pixels."""
    import torch

    def judge(pixels: Pixels) -> object:
        with torch.inference_mode():
            return metric(torch.from_numpy(pixels).permute(2, 0, 1).contiguous()[None] / 255)

    return judge


RANDOM = "random weights"

PEERS = (
    Peer("OpenCV Laplacian variance", "opencv-python-headless", "cv2", laplacian, "blur only"),
    Peer(
        "OpenCV BRISQUE",
        "opencv-contrib-python-headless",
        "cv2",
        opencv_brisque,
        "features only, without its support vectors",
    ),
    Peer("piq BRISQUE", "piq", "piq", piq_brisque, "random support vectors"),
    Peer(
        "pyiqa NIMA", "pyiqa", "pyiqa", pyiqa_metric("nima"), f"{RANDOM}; looks at 299x299 pixels"
    ),
    Peer("pyiqa MUSIQ", "pyiqa", "pyiqa", pyiqa_metric("musiq"), RANDOM),
    Peer(
        "pyiqa TOPIQ-NR",
        "pyiqa",
        "pyiqa",
        pyiqa_metric("topiq_nr", backbone_pretrain=False),
        RANDOM,
    ),
)
