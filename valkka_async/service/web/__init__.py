# SPDX-License-Identifier: MIT
"""The service's page and HTTP interface, on aiohttp."""
