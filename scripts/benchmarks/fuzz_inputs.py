#!/usr/bin/env python3
"""Give damaged files to the commands: each must succeed or end with one error line.

Intact videos, images, TOML files, model files, summaries, masks and checkpoints are made, damaged at random and read,
each in a process of its own with limited memory and time. Anything else than success or one line is a finding: a
traceback, a crash, a run that does not end, memory beyond the limit. The first of each sort is saved with its files and
the command that repeats it. The exit code is 1 if there are findings.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from fuzz_kinds import KINDS, Seed, make_seeds
from fuzz_mutations import mutate_file

from ccnet3d.cli.options import non_negative, positive, run_command
from ccnet3d.errors import UserError

_MEMORY_BYTES = 3 << 30
"""Address space that a case may add to that of its parent."""
_CPU_SECONDS, _SECONDS = 60, 300


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=1.0, metavar="N", help="how long to search (default: 1)")
    parser.add_argument("--cases", type=positive, metavar="N", help="stop after so many cases")
    parser.add_argument("--first", type=non_negative, default=0, metavar="N", help="number of the first case")
    parser.add_argument("--seed", type=non_negative, default=0, help="of all draws (default: 0)")
    parser.add_argument(
        "--kinds", default=",".join(KINDS), metavar="NAME,...", help=f"what to damage (default: {','.join(KINDS)})"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("fuzz-findings"), metavar="FOLDER", help="folder of the findings"
    )
    return parser.parse_args()


def search(arguments: argparse.Namespace) -> bool:
    """Run the cases, print a summary and return whether there are findings."""
    kinds = list(dict.fromkeys(arguments.kinds.split(",")))
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        raise UserError(f"unknown kind {unknown[0]!r}; choose from {', '.join(KINDS)}")
    torch.set_num_threads(1)  # also because a process with threads must not fork
    cases: Counter[str] = Counter()
    found: Counter[tuple[str, str]] = Counter()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as temporary:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            seeds = make_seeds(Path(temporary) / "seeds", kinds)
        end = time.monotonic() + 60 * arguments.minutes
        number = arguments.first
        while time.monotonic() < end and (arguments.cases is None or number < arguments.first + arguments.cases):
            kind = kinds[number % len(kinds)]
            work = Path(temporary) / "case"
            reason, log = _run_case(seeds[kind], work, np.random.default_rng((arguments.seed, number)))
            cases[kind] += 1
            if reason:
                found[kind, reason] += 1
                if found[kind, reason] == 1:
                    repeat = f"--seed {arguments.seed} --kinds {','.join(kinds)} --first {number} --cases 1"
                    _save(arguments.out / f"{kind}-{arguments.seed}-{number}", work, f"{reason}\n{repeat}\n\n{log}")
                    print(f"{kind}, {repeat}: {reason}", flush=True)
            shutil.rmtree(work)
            number += 1
    for kind in kinds:
        print(f"{kind}: {cases[kind]} cases, {sum(n for (of, _), n in found.items() if of == kind)} findings")
    for (kind, reason), count in found.most_common():
        print(f"  {count} x {kind}: {reason}")
    return bool(found)


def _run_case(seeds: list[Seed], work: Path, random: np.random.Generator) -> tuple[str, str]:
    """Damage a copy of a seed and read it; return why it is a finding, or nothing, and what was printed."""
    seed = seeds[random.integers(len(seeds))]
    shutil.copytree(seed.folder, work / "input")
    target = work / "input" / seed.targets[random.integers(len(seed.targets))]
    mutate_file(target, random)
    with (work / "log.txt").open("w+b") as log:
        child = os.fork()
        if child == 0:
            os._exit(_run_child(seed, work / "input", log.fileno()))
        status = _wait(child)
        log.seek(0)
        text = log.read().decode(errors="replace")
    return _judge(status, text, work), f"{target.relative_to(work)}\n{text}"


def _run_child(seed: Seed, folder: Path, log: int) -> int:
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_RDWR), 0)
        os.dup2(os.open(os.devnull, os.O_RDWR), 1)
    os.dup2(log, 2)
    sys.stderr = os.fdopen(2, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + _MEMORY_BYTES,) * 2)
    resource.setrlimit(resource.RLIMIT_CPU, (_CPU_SECONDS, _CPU_SECONDS + 5))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    torch.set_num_threads(1)  # makes PyTorch's thread pool anew; several threads at once would fail to
    try:
        code = seed.run(folder)
    except SystemExit as stopped:
        code = stopped.code if isinstance(stopped.code, int) else 1
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stderr.flush()
    return code


def _wait(child: int) -> int | None:
    """Return the status of a process, None if it had to be killed."""
    end = time.monotonic() + _SECONDS
    pause = 0.001
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status
        time.sleep(pause)
        pause = min(0.1, pause * 1.5)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def _judge(status: int | None, text: str, work: Path) -> str:
    """Return what is wrong with how a case ended, nothing if it is right."""
    if status is None:
        return f"no end within {_SECONDS} seconds"
    code = os.waitstatus_to_exitcode(status)
    lines = text.splitlines()
    if code < 0:
        return "no end within the CPU time" if code == -signal.SIGXCPU else f"signal {signal.Signals(-code).name}"
    if code not in (0, 2):
        errors = [line for line in lines if re.match(r"[\w.]+(Error|Exception|Warning|Interrupt|Exit)\b", line)]
        return re.sub(r"0x\w+|\d+|'[^']*'|\S*/\S*", "_", (errors or lines or [f"exit code {code}"])[-1])[:150]
    found = [index for index, line in enumerate(lines) if ": error: " in line]
    if code == 2 and (len(found) != 1 or any(not line.startswith("  ") for line in lines[found[0] + 1 :])):
        return f"not one error line: {len(found)} of {len(lines)}"
    if code == 2 and "out of memory" in text:
        return "too much memory"
    if code == 2 and len(lines[found[0]].replace(str(work), "")) > 1500:
        return "an error line of more than 1500 characters"
    if "weights_only" in text or "Traceback" in text:
        return "prints a traceback, or PyTorch's advice to trust a file"
    return ""


def _save(folder: Path, work: Path, report: str) -> None:
    shutil.copytree(work / "input", folder / "input", dirs_exist_ok=True)
    (folder / "report.txt").write_text(report, encoding="utf-8")


def main() -> int:
    arguments = parse_arguments()
    found = []
    code = run_command(Path(__file__).name, lambda: found.append(search(arguments)))
    return code or int(found[0])


if __name__ == "__main__":
    sys.exit(main())
