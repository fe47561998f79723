# SPDX-License-Identifier: MIT
"""python -m valkka_async"""

from valkka_async.cli import main

main()
