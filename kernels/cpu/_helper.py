"""What numba compiles: kernels, which Python calls, and helpers, which are compiled as parts of kernels alone.

What `numba.njit` makes can be called from Python: each function is translated to machine code and given a wrapper that
unpacks Python's arguments, although a kernel that calls it is optimised and translated with a copy of it. Helpers stop
at LLVM's code, which a kernel takes over.
"""

import contextlib
import gc
from collections.abc import Iterator
from typing import Any

from numba.core import codegen, compiler, compiler_lock, compiler_machinery, registry, sigutils, types
from numba.core import typed_passes as typed
from numba.core import untyped_passes as untyped
from numba.core.imputils import lower_constant
from numba.extending import models, register_model


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Stops the search for unreachable objects, which takes an eighth of the compiler's time: numba makes so many
    objects that all those of the process, torch's among them, are looked through again and again."""
    with compiler_lock.global_compiler_lock:
        enabled = gc.isenabled()
        gc.disable()
        try:
            yield
        finally:
            if enabled:
                gc.enable()


class _Compiler(compiler.CompilerBase):
    """Those of numba's passes that kernels need: no closures, `with`, `literal_unroll`, or expressions of whole arrays,
    whose check of shapes would compile more than a kernel."""

    def define_pipelines(self) -> Any:
        passes = compiler_machinery.PassManager("fastwarp")
        for step in (
            untyped.TranslateByteCode,
            untyped.FixupArgs,
            untyped.IRProcessing,
            untyped.RewriteSemanticConstants,
            untyped.DeadBranchPrune,
            untyped.GenericRewrites,
            untyped.ReconstructSSA,
            untyped.DeadBranchPrune,
            typed.NopythonTypeInference,
            typed.PreLowerStripPhis,
            typed.IRLegalization,
            typed.NativeLowering,
            typed.NoPythonBackend,
        ):
            passes.add_pass(step, step.name())
        passes.finalize()
        return [passes]


class Kernel(registry.CPUDispatcher):
    """As what `numba.njit(**options)` makes of a function."""

    def __init__(self, function: Any, **options: Any) -> None:
        options |= {"nopython": True, "no_cfunc_wrapper": True}
        super().__init__(function, targetoptions=options, pipeline_class=_Compiler)

    def compile(self, sig: Any) -> Any:
        """Compiles a version, or loads it from the disk cache."""
        with _no_collection():
            return super().compile(sig)


class _HelperType(types.Dispatcher):
    """A helper as a value. numba's own has the address of the function in this process, and a kernel that passes it on
    could not be kept on disk."""


register_model(_HelperType)(models.OpaqueModel)


@lower_constant(_HelperType)
def _nothing(context: Any, builder: Any, type_: Any, value: Any) -> Any:
    return context.get_dummy_value()


class _Library(codegen.JITCodeLibrary):
    """LLVM's code of a function, which is optimised and translated with its callers alone."""

    def _optimize_final_module(self) -> None:
        pass

    def _finalize_final_module(self) -> None:
        self._finalize_dynamic_globals()
        self._finalized = True


class _HelperCompiler(_Compiler):
    def define_pipelines(self) -> Any:
        self.state.flags.no_compile = True
        self.state.library = _Library(self.state.targetctx.codegen(), self.state.func_id.func_qualname)
        return super().define_pipelines()


class Helper(registry.CPUDispatcher):
    """As what `numba.njit(**options)` makes of a function, for callers that numba compiles."""

    def __init__(self, function: Any, **options: Any) -> None:
        options |= {"nopython": True, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
        super().__init__(function, targetoptions=options, pipeline_class=_HelperCompiler)

    @property
    def _numba_type_(self) -> Any:
        return _HelperType(self)

    def add_overload(self, cres: Any) -> None:
        """Makes a version known to callers: by its descriptor, where others have the function that Python calls."""
        self.targetctx.insert_user_function(cres.fndesc, cres.fndesc, [cres.library])
        self.overloads[tuple(cres.signature.args)] = cres

    def get_overload(self, sig: Any) -> Any:
        """The descriptor of the version for a signature."""
        args, _ = sigutils.normalize_signature(sig)
        version: Any = self.overloads[tuple(args)]
        return version.fndesc

    def get_call_template(self, args: Any, kws: Any) -> Any:
        """The version for a call: one for all numbers that a caller may write as a literal, because the value is known
        where the helper becomes part of its caller."""
        return super().get_call_template([types.unliteral(kind) for kind in args], kws)

    def _compile_for_args(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(f"{self.py_func.__qualname__} is a helper, which only compiled functions can call")
