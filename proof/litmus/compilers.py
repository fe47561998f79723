# SPDX-License-Identifier: MIT
"""Do compilers make of each access what machines.py says? Asks those that are installed."""

from __future__ import annotations

import re
import shutil
import subprocess

from machines import MACHINES

# Which compilers make code for which machines.
COMPILERS = {
    "aarch64-linux-gnu-gcc -march=armv8-a -mno-outline-atomics": ["aarch64"],
    "aarch64-linux-gnu-gcc -march=armv8.3-a": ["aarch64-v8.3"],
    "riscv64-linux-gnu-gcc -march=rv64gc": ["riscv", "riscv-gcc12"],
    "clang --target=aarch64-linux-gnu -march=armv8-a -mno-outline-atomics": ["aarch64"],
    "clang --target=aarch64-linux-gnu -march=armv8.3-a": ["aarch64-v8.3"],
    "clang --target=riscv64-linux-gnu -march=rv64gc": ["riscv"],
}

# What is not as in the table and can only be stronger.
STRONGER = {
    ("aarch64-v8.3", "load acquire"): ["ldar"],  # GCC before 13
    ("riscv", "store seq_cst"): ["fence rw,w", "sw", "fence rw,rw"],  # Clang 22, GCC 15
}

_C = {
    "load": "{name} (word *p) {{ return atomic_load_explicit(p, memory_order_{order}); }}",
    "store": "{name} (word *p, int v) {{ atomic_store_explicit(p, v, memory_order_{order}); return 0; }}",
    "exchange": "{name} (word *p, int v) {{ return atomic_exchange_explicit(p, v, memory_order_{order}); }}",
}
_MEMORY = re.compile(r"(ld|st|sw|lw|lr|sc|amo|cas|fence|dmb|cbnz)")


def _instructions(lines: list[str]) -> list[str]:
    """Those that matter, without their registers: "fence rw,w", "amoswap.w.aq"."""
    found = []
    for line in ";".join(lines).lower().split(";"):
        name, operands = [*line.split(maxsplit=1), "", ""][:2]
        if not _MEMORY.match(name):
            continue
        name = name.replace(".aqrl", ".aq.rl")
        if name == "fence":  # "iorw" is "rw", and devices
            name += " " + re.sub(r"[io\s]", "", operands)
        found.append(name)
    return found


def differences(compiler: str) -> list[str] | None:
    """What a compiler makes in another way than each of its machines has it. None: it is not installed."""
    command = compiler.split()
    if shutil.which(command[0]) is None:
        return None
    table = MACHINES[COMPILERS[compiler][0]].instructions
    accesses = [key for key in table if not key.endswith("plain")]
    source = "#include <stdatomic.h>\ntypedef _Atomic int word;\n" + "\n".join(
        "int " + _C[op].format(name=f"{op}_{order}", order=order) for op, order in map(str.split, accesses)
    )
    command += ["-std=c11", "-O2", "-ffreestanding", "-fomit-frame-pointer", "-S", "-x", "c", "-", "-o", "-"]
    done = subprocess.run(command, input=source, capture_output=True, text=True, timeout=60)
    if done.returncode:
        return [done.stderr.strip()]
    made: dict[str, list[str]] = {}
    for line in done.stdout.splitlines():
        if label := re.match(r"(load|store|exchange)_(\w+):", line):
            made[f"{label[1]} {label[2]}"] = lines = []
        elif made and not re.match(r"\s*[.#/]", line):
            lines.append(line)
    found = []
    for machine in COMPILERS[compiler]:
        here = []
        for access in accesses:
            wanted = _instructions(MACHINES[machine].instructions[access])
            if (got := _instructions(made.get(access, []))) not in (wanted, STRONGER.get((machine, access))):
                here.append(f"{machine}, {access}: {'; '.join(got)}, and not {'; '.join(wanted)}")
        if not here:
            return []
        found += here
    return found
