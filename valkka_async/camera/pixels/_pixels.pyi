# Types of the compiled module; its docstrings say the rest.
import numpy as np
from numpy.typing import NDArray

MAX_BLOCK: int

def shrink(
    source: NDArray[np.uint8], out: NDArray[np.uint8], columns: int, rows: int, channels: int = 1
) -> None: ...
def stretch(source: NDArray[np.uint8], out: NDArray[np.uint8]) -> None: ...
