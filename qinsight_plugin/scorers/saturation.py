"""Whether ONNX Runtime's sums of 8-bit products come out right on this CPU.

Without 8-bit dot products (VNNI, AMX and the like) it adds two products in 16 bits, which 255 * 127
twice is too much for, and says nothing. `session.x64quantprecision` has it compute otherwise:
exact, but more than twice as slow on a CPU that had no need of it. So the CPU is asked.
"""

from __future__ import annotations

from functools import cache

BYTES = 8
"""How many products are summed up."""

PRODUCT_OF_BYTES = (
    b'\x08\n:\\\n\x18\n\x01a\n\x01b\x12\x01y"\rMatMulInteger\x12\x01g'
    b"Z\x13\n\x01a\x12\x0e\n\x0c\x08\x02\x12\x08\n\x02\x08\x01\n\x02\x08\x08"
    b"Z\x13\n\x01b\x12\x0e\n\x0c\x08\x03\x12\x08\n\x02\x08\x08\n\x02\x08\x01"
    b"b\x13\n\x01y\x12\x0e\n\x0c\x08\x06\x12\x08\n\x02\x08\x01\n\x02\x08\x01B\x04\n\x00\x10\x14"
)
"""The ONNX model y = MatMulInteger(a, b), of uint8 [1, 8] and int8 [8, 1], as its file holds it; to
run it nobody needs the package that writes such files."""


@cache
def sums_saturate() -> bool:
    """Whether the greatest bytes times the greatest weights give less than they should."""
    import numpy as np
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(
        PRODUCT_OF_BYTES, options, providers=["CPUExecutionProvider"]
    )
    a, b = np.full((1, BYTES), 255, np.uint8), np.full((BYTES, 1), 127, np.int8)
    (found,) = session.run(None, {"a": a, "b": b})
    return bool(found.item() != BYTES * 255 * 127)
