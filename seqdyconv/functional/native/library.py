"""Kernels as machine code: compiled by LLVM, kept on disk, and run on torch's threads.

Nothing here is trusted to work: whatever keeps the kernels from being made or run on a machine is an
:class:`Unavailable` with its reason.
"""

import ctypes
import functools
import hashlib
import importlib.util
import logging
import mmap
import os
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from seqdyconv.functional.native.plan import FIELDS, Host, Kernel, convolution

logger = logging.getLogger(__name__)


class Unavailable(Exception):
    """Why there are no kernels here, in words that follow "because"."""


@functools.cache
def host() -> Host:
    """This machine.

    Raises:
        Unavailable: llvmlite is missing or doesn't work, or the processor lacks what the kernels need.
    """
    if importlib.util.find_spec("llvmlite") is None:
        raise Unavailable("it needs llvmlite: pip install 'seqdyconv[native]'")
    if sys.platform == "win32":
        raise Unavailable("it has not been tried on Windows")
    try:
        from llvmlite import binding

        binding.initialize_native_target()
        binding.initialize_native_asmprinter()
        found = Host(
            binding.get_process_triple(), binding.get_host_cpu_name(), binding.get_host_cpu_features().flatten()
        )
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        raise Unavailable(f"llvmlite doesn't work here ({error})") from error
    machine = found.triple.partition("-")[0]
    if machine in ("x86_64", "amd64"):
        if not found.has("avx2") or not found.has("fma"):
            raise Unavailable(f"it needs AVX2 and FMA, which {found.cpu} lacks")
    elif machine not in ("aarch64", "arm64"):
        raise Unavailable(f"it knows x86-64 and ARM, got {machine}")
    return found


@functools.cache
def why_not() -> str | None:
    """Why no kernel can run here; None where one has."""
    try:
        return None if _product(2.0, 3.0) == 6.0 else "its first kernel computed something wrong"
    except (Unavailable, ImportError, OSError, RuntimeError, AttributeError) as error:
        return str(error) if isinstance(error, Unavailable) else f"its first kernel can't be made ({error})"


def _product(a: float, b: float) -> float:
    """By the smallest kernel there is."""
    one = ctypes.c_float * 1
    input, weight, output = one(a), one(b), one()
    places = {"source": input, "weight": weight, "output": output}
    ones = ("batch", "length", "time", "channels", "heads", "kernel_size", "dilation", "blocks", "rows", "threads")
    sizes = dict.fromkeys(ones, 1)
    numbers = dict.fromkeys(FIELDS, 0) | sizes | {name: ctypes.addressof(place) for name, place in places.items()}
    kernel = convolution(host(), "forward", per_step=True, dtype="float32", channels=1, heads=1, kernel_size=1, time=1)
    arguments = (ctypes.c_int64 * len(numbers))(*numbers.values())
    run(function(kernel), arguments, threads=1)
    return output[0]


# From a kernel to a function


class Function:
    """Machine code of one kernel that is loaded, ``void kernel(int64_t *arguments)``."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine  # owns the code
        self.address = engine.get_function_address("kernel")
        self.call: Callable[[int], None] = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(self.address)


loaded: dict[Kernel, Function] = {}
_building = threading.Lock()


def function(kernel: Kernel) -> Function:
    """Its machine code, made at its first use."""
    if (found := loaded.get(kernel)) is None:
        with _building:
            if (found := loaded.get(kernel)) is None:
                found = loaded[kernel] = _load(_from_cache(kernel))
    return found


def compile_for(host: Host, kernel: Kernel) -> bytes:
    """A kernel as an object file for a processor, which may be another one than this machine's."""
    from llvmlite import binding

    from seqdyconv.functional.native.kernels import write

    module = binding.parse_assembly(write(kernel, host.triple))
    module.verify()
    machine = _target_machine(host)
    builder = binding.create_pass_builder(machine, binding.create_pipeline_tuning_options())
    # Of LLVM's passes those that tidy up. The kernels are vectors, and unrolled where it pays: what it does beyond to
    # loops takes most of the time of building and makes none faster.
    passes = binding.create_new_function_pass_manager()
    passes.add_sroa_pass()
    passes.add_instruction_combine_pass()
    passes.add_simplify_cfg_pass()
    passes.add_new_gvn_pass()
    passes.add_loop_rotate_pass()
    passes.add_instruction_combine_pass()
    passes.run(module.get_function("kernel"), builder)
    return machine.emit_object(module)


def _target_machine(host: Host) -> Any:
    from llvmlite import binding

    target = binding.Target.from_triple(host.triple)
    return target.create_target_machine(cpu=host.cpu, features=host.features, opt=3, jit=True)


def _load(code: bytes) -> Function:
    from llvmlite import binding

    engine = binding.create_mcjit_compiler(binding.parse_assembly(""), _target_machine(host()))
    engine.add_object_file(binding.ObjectFileRef.from_data(code))
    engine.finalize_object()
    return Function(engine)


# On disk


def _from_cache(kernel: Kernel) -> bytes:
    """The object file, made where the cache has none that is whole."""
    folder, key = _cache_folder(), _key(kernel)
    if folder is None:
        return compile_for(host(), kernel)
    path = folder / f"{hashlib.sha256(key).hexdigest()[:32]}.o"
    try:
        seal, code = (data := path.read_bytes())[:32], data[32:]
        if seal == _seal(key, code):
            return code
        logger.debug("%s is damaged and made again", path)
    except FileNotFoundError:
        pass
    except OSError as error:
        logger.debug("%s can't be read (%s)", path, error.strerror)
    code = compile_for(host(), kernel)
    try:
        _write(path, _seal(key, code) + code)
    except OSError as error:
        logger.debug("no kernel is kept in %s (%s)", folder, error.strerror)
    return code


def _write(path: Path, data: bytes) -> None:
    """As a whole or not at all, while other processes may write the same file."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".tmp")
    try:
        with open(handle, "wb") as file:
            file.write(data)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _seal(key: bytes, code: bytes) -> bytes:
    return hashlib.sha256(key + code).digest()


def _key(kernel: Kernel) -> bytes:
    """All that the machine code depends on."""
    import llvmlite

    return "\n".join([kernel.name, *map(str, vars(host()).values()), llvmlite.__version__, _source()]).encode()


@functools.cache
def _source() -> str:
    sources = [Path(__file__).with_name(name).read_bytes() for name in ("ir.py", "kernels.py", "library.py", "plan.py")]
    return hashlib.sha256(b"".join(sources)).hexdigest()


def _cache_folder() -> Path | None:
    """The folder of kernels in the cache, both of which nobody else can write to; None where there is none."""
    given = os.environ.get("SEQDYCONV_CACHE")
    try:
        cache = Path(given) if given else _user_cache() / "seqdyconv"
        for folder in (cache, cache / "kernels"):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            status = folder.stat()
            if status.st_uid != os.getuid() or status.st_mode & 0o022:
                logger.debug("kernels are not kept: others may write to %s", folder)
                return None
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no home
        logger.debug("kernels are not kept: %s", error)
        return None
    return folder


def _user_cache() -> Path:
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


# In memory

_LARGE = 2**20  # bytes: below, memory is mostly of pages that were in use before
_MADV_HUGEPAGE = 14
_PAGE = mmap.PAGESIZE


def in_large_pages(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor, which nobody has written to yet, in pages of 2 MiB where Linux has them to give.

    Else the first write to each 4 KiB stops for the system to find a page, which takes longer than a short convolution.
    """
    if tensor.nbytes >= _LARGE and (advise := _madvise()) is not None:
        start, end = -(-tensor.data_ptr() // _PAGE) * _PAGE, (tensor.data_ptr() + tensor.nbytes) // _PAGE * _PAGE
        advise(start, end - start, _MADV_HUGEPAGE)  # an advice: whether it is taken makes no other difference
    return tensor


@functools.cache
def _madvise() -> Callable[..., int] | None:
    if sys.platform != "linux":
        return None
    advise = ctypes.CDLL(None).madvise
    advise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return advise


# On threads


@functools.cache
def team() -> Callable[..., None] | None:
    """``GOMP_parallel`` of the very OpenMP library that torch computes with; None where it has none.

    Another library beside it would have threads of its own, which die in a fork and fight for the cores.
    """
    try:
        torch_cpu = ctypes.CDLL(str(Path(torch.__file__).with_name("lib") / "libtorch_cpu.so"))
        parallel = torch_cpu.GOMP_parallel  # symbols of a library are also those of the libraries that it needs
    except (OSError, AttributeError):
        return None
    parallel.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
    parallel.restype = None
    return parallel


def run(function: Function, arguments: Any, threads: int) -> None:
    """Call a kernel on as many of torch's threads, or on this one alone where it has none or this is a fork."""
    address = ctypes.addressof(arguments)
    if threads > 1 and not _forked and (parallel := team()) is not None:
        parallel(function.address, address, threads, 0)
    else:
        function.call(address)


_forked = False


def _after_fork() -> None:
    """A child has none of its parent's threads: not those of OpenMP, which waits for them, nor one that is building."""
    global _forked, _building
    _forked, _building = True, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
