# Types of the compiled module; its docstrings say the rest.
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from typing_extensions import disjoint_base

MAX_TOTAL: int

@disjoint_base
class Axis:
    def __init__(self, source: int, first: NDArray[np.int32], weights: NDArray[np.uint16]) -> None: ...
    @property
    def source(self) -> int: ...
    @property
    def size(self) -> int: ...

@disjoint_base
class Fit:
    def __init__(
        self,
        kind: int | Literal["nv12", "yuv420p"],
        columns: Axis,
        rows: Axis,
        chroma: tuple[Axis, Axis] | None,
        size: tuple[int, int],
        corner: tuple[int, int],
        planes: bool,
        itemsize: int,
        table: Any,
        pad: int,
        swap: bool,
    ) -> None: ...
    @property
    def source_bytes(self) -> int: ...
    @property
    def row_bytes(self) -> int: ...
    def fill(self, out: Any, source: Any) -> None: ...
