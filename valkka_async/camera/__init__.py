# SPDX-License-Identifier: MIT
"""Cameras and files into rings: `play()` and the `Player` it returns."""

from .play import Player, PlayerStats, play

__all__ = ["Player", "PlayerStats", "play"]
