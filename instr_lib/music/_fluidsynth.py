"""The functions of the FluidSynth library that :mod:`instr_lib.music.synth` calls."""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
from ctypes import byref, c_float, c_int, c_void_p
from types import SimpleNamespace

from ..errors import SynthError


@functools.cache
def bindings() -> SimpleNamespace:
    """The C functions: those of pyfluidsynth as ``module``, and those that pyfluidsynth leaves out by name.

    Raises
    ------
    SynthError
        If FluidSynth or pyfluidsynth is missing or too old.
    """
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # with CI set it prints where it found the library
            module = importlib.import_module("fluidsynth")
    except (ImportError, OSError) as error:
        raise SynthError(
            f"the FluidSynth library cannot be loaded ({error}): install it (Debian, Ubuntu: 'apt-get install "
            "libfluidsynth3', macOS: 'brew install fluid-synth') and the Python package pyfluidsynth (not 'fluidsynth'); "
            "in a checkout of the repository 'make setup' installs both"
        ) from None

    def bind(name, result, *types):
        function = module.cfunc(name, result, *((f"argument{n}", type_, 1) for n, type_ in enumerate(types)))
        if function is None:
            raise SynthError(f"this FluidSynth library lacks {name}: install FluidSynth 2.2 or newer")
        return function

    p, i = c_void_p, c_int
    functions = SimpleNamespace(
        write_float=bind("fluid_synth_write_float", i, p, i, p, i, i, p, i, i),
        pin_preset=bind("fluid_synth_pin_preset", i, p, i, i, i),
        add_sfont=bind("fluid_synth_add_sfont", i, p, p),
        remove_sfont=bind("fluid_synth_remove_sfont", i, p, p),
        set_gen=bind("fluid_synth_set_gen", i, p, i, i, c_float),
        module=module,
    )
    # Every new synth without a font would print 16 warnings to stderr; failures reach us as
    # return values. Levels: 0 panic, 1 error, 2 warning.
    set_log = bind("fluid_set_log_function", p, i, p, p)
    for level in (0, 1, 2):
        set_log(level, None, None)
    return functions


def fluidsynth_version() -> str:
    """Version of the FluidSynth library, such as ``2.3.1``."""
    numbers = [c_int() for _ in range(3)]
    bindings().module.fluid_version(*(byref(number) for number in numbers))
    return ".".join(str(number.value) for number in numbers)
