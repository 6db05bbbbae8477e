"""Compiles the C++ sources of this folder, keeps the result in the cache folder and gives its functions to XLA."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

import jax

SWITCH = "ISOLOSS_KERNELS"
FLAGS = ("-O3", "-march=native", "-ffp-contract=fast", "-std=c++17", "-shared", "-fPIC", "-pthread", "-w")
TARGETS = ("attention", "attention_gradient", "packed_attention", "packed_attention_gradient")
COMPILE_SECONDS = 300.0
HERE = Path(__file__).parent


class BuildError(RuntimeError):
    """The kernels cannot be had here: the message is the reason, in one line."""


class Library(NamedTuple):
    path: Path
    version: str


def status() -> tuple[bool, str]:
    """Whether the kernels can be used now, and the reason if not. Compiles them (seconds) on the first call of a machine."""
    if os.environ.get(SWITCH, "").lower() == "off":
        return False, f"switched off by {SWITCH}=off"
    if jax.default_backend() != "cpu":
        return False, f"the kernels are for the CPU and JAX runs on {jax.default_backend()}"
    library = _loaded()
    return (True, "") if isinstance(library, Library) else (False, library)


def version() -> str:
    """A name of the kernels' arithmetic, source hash and instruction set, for the record of a run; "" where they are off."""
    library = _loaded() if status()[0] else ""
    return library.version if isinstance(library, Library) else ""


def require() -> None:
    """Raises RuntimeError with the reason where the kernels cannot be used."""
    available, reason = status()
    if not available:
        raise RuntimeError(f"no compiled kernels: {reason}")


@functools.cache
def _loaded() -> Library | str:
    """The library with its functions registered, or the reason why there is none. Tried once per process."""
    try:
        path = compiled()
        library = ctypes.CDLL(str(path))
        for name in TARGETS:
            handler = jax.ffi.pycapsule(getattr(library, f"isoloss_{name}"))
            jax.ffi.register_ffi_target(f"isoloss_{name}", handler, platform="cpu")
        library.isoloss_instructions.restype = ctypes.c_char_p
        return Library(path, f"{_hash_of_sources()[:12]}-{library.isoloss_instructions().decode()}")
    except (BuildError, OSError, AttributeError) as error:
        return str(error).splitlines()[0]


def compiled() -> Path:
    """The shared object for this machine, compiled if the cache folder has none. BuildError gives the reason if it cannot be."""
    compiler = _compiler()
    target = _cache_folder() / "kernels" / f"{_key(compiler)}.so"
    if target.exists():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, unfinished = tempfile.mkstemp(suffix=".so", dir=target.parent)
        os.close(handle)
    except OSError as error:
        raise BuildError(f"the cache folder cannot be written: {error}") from error
    try:
        _compile(compiler, Path(unfinished))
        os.replace(unfinished, target)  # whole or not at all: workers may build at the same time
    finally:
        Path(unfinished).unlink(missing_ok=True)
    return target


def _compile(compiler: list[str], target: Path) -> None:
    sources = [str(path) for path in sorted(HERE.glob("*.cc"))]
    command = [*compiler, *FLAGS, "-I", jax.ffi.include_dir(), *sources, "-o", str(target)]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=COMPILE_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildError(f"{compiler[0]} failed: {error}") from error
    if result.returncode != 0:
        errors = [line for line in result.stderr.splitlines() if "error" in line] or result.stderr.splitlines() or ["no message"]
        raise BuildError(f"{compiler[0]} failed: {errors[0].strip()}")


def _compiler() -> list[str]:
    chosen = shlex.split(os.environ.get("CXX", ""))
    for candidate in [chosen] if chosen else [["g++"], ["clang++"]]:
        found = shutil.which(candidate[0])
        if found:
            return [found, *candidate[1:]]
    missing = f"CXX names {chosen[0]}, which is not there" if chosen else "neither g++ nor clang++ is there"
    raise BuildError(f"no C++ compiler: {missing}")


def _key(compiler: list[str]) -> str:
    """Hash of everything that the machine code depends on."""
    try:
        version = subprocess.run([*compiler, "--version"], capture_output=True, text=True, timeout=60, check=True).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise BuildError(f"{compiler[0]} --version failed: {error}") from error
    parts = [_hash_of_sources(), shlex.join(compiler), version, " ".join(FLAGS), _processor(), jax.lib.__version__]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


@functools.cache
def _hash_of_sources() -> str:
    digest = hashlib.sha256()
    for path in sorted([*HERE.glob("*.cc"), *HERE.glob("*.h")]):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def _processor() -> str:
    """What `-march=native` looks at, as far as it is told: two machines may share a home folder."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    wanted = ("flags", "Features", "model name", "CPU part")
    return "\n".join([platform.machine(), *sorted({line for line in lines if line.startswith(wanted)})])


def _cache_folder() -> Path:
    """`ISOLOSS_CACHE`, or `isoloss` in the user's cache folder."""
    chosen = os.environ.get("ISOLOSS_CACHE")
    if chosen:
        return Path(chosen).expanduser().resolve()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "isoloss"
