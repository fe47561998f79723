# SPDX-License-Identifier: MIT
"""Cameras and files into rings. `valkka_async` itself has the public names of what is in here.

Nothing is imported here: PyAV is large, and a process that only supervises cameras does without.
"""
