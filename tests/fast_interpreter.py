"""Makes Triton's interpreter about three times as fast, for the tests of kernels on machines without a GPU."""

from triton import language
from triton.runtime import interpreter


def install() -> None:
    """Removes three costs that the interpreter pays for each function call and for each operation."""
    interpreter._patch_lang = _patched_once(interpreter._patch_lang)
    interpreter._get_np_dtype = _remembered(interpreter._get_np_dtype)
    # Every sum and product of integers is computed again in int64 and compared. Sizes in tests are far from 2**31.
    interpreter.interpreter_builder.options = interpreter.InterpreterOptions(sanitize_overflow=False)


def _patched_once(patch_lang):
    """`triton.language` is replaced while a kernel runs, and then again for each function that the kernel calls. The
    second time changes nothing."""
    nothing_to_restore = getattr(interpreter, "_LangPatchScope", lambda: None)
    modules_of = {}

    def patch(fn):
        if fn not in modules_of:
            modules_of[fn] = [m for m in (language, language.core) if any(m is v for v in fn.__globals__.values())]
        if any(language.core.is_builtin(module.load) for module in modules_of[fn]):
            return patch_lang(fn)
        return nothing_to_restore()

    return patch


def _remembered(np_dtype_of):
    """NumPy's type of a Triton type, which is looked up in a dictionary that is built for each look."""
    known = {}

    def np_dtype(type_):
        name = type_.scalar.name
        if name not in known:
            known[name] = np_dtype_of(type_)
        return known[name]

    return np_dtype
