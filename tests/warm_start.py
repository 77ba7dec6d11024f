"""Start `python`, `dvc` and `samebits` with their libraries loaded already: a server forks a process for each.

Most of the time of a tiny pipeline is the import of torch, MLflow and DVC, in six processes one after the other. What runs is
the same code in a process of its own, with its own arguments, environment, folder and files. Tests that are about processes
(signals, parents, imports) start them in the usual way.
"""

import atexit
import ctypes
import gc
import os
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import weakref
from ast import literal_eval
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

PR_SET_PDEATHSIG = 1  # from Linux's prctl.h: a signal at the end of the parent
MADV_COLLAPSE = 25  # from Linux's mman.h: put a range of memory into large pages
LARGE_PAGE_BYTES = 2 << 20
PROGRAMS = ("python", "dvc", "samebits")
COMMANDS: dict[str, EntryPoint] = {}  # of dvc and samebits; the server looks them up, among hundreds of packages
LIBRARIES = """
alembic.command click filelock jinja2 joblib.externals.loky matplotlib.backends.backend_agg matplotlib.figure matplotlib.style numpy
pandas PIL.Image psutil pydantic ruamel.yaml safetensors.torch scipy.stats sqlalchemy.dialects.sqlite sqlalchemy.orm
statsmodels.stats.contingency_tables statsmodels.stats.multitest tabulate torch torch._dynamo tqdm
mlflow mlflow.store.artifact.local_artifact_repo mlflow.store.tracking.sqlalchemy_store mlflow.tracking
dvc.api dvc.cli.parser dvc.dependency dvc.lock dvc.output dvc.repo.experiments.queue.workspace dvc.repo.reproduce dvc.rwlock
dvc.scm dvc.stage.cache dvc_data.index
dulwich.ignore dulwich.worktree dvc.repo.index dvc.repo.open_repo dvc.repo.plots dvc.repo.stage dvc.ui.table dvc.utils.strictyaml
dvc_data.fs dvc_data.hashfile.db.local fsspec.implementations.memory pygit2
dvc.cachemgr dvc.data_cloud dvc.fs.dvc dvc.parsing dvc.repo.artifacts dvc.repo.datasets dvc.repo.graph
dvc.repo.experiments.queue.tempdir dvc.utils.hydra dvc_data.hashfile.state dvc_data.index.checkout dvc_data.index.fetch
dvc_data.index.push
hydra._internal.config_loader_impl hydra.core.override_parser.overrides_parser networkx omegaconf
"""
# Words of the commands of DVC that run others, which have to be its descendants.
RUNNING = {"exec-run", "queue-worker", "repro", "run"}
# What a library reads when it is loaded: a process that wants another value loads it itself.
HELD = ("ATEN_", "MKL_", "NPY_", "ONEDNN_")  # as the stages of most tests set it for themselves
READ_AT_START = (*HELD, "GLIBC_", "KMP_", "LANG", "LC_", "LD_", "MALLOC_", "MPL", "OMP_", "PYTHON")
SET_LATER = ("PYTHONDONTWRITEBYTECODE", "PYTHONPATH", "PYTHONPYCACHEPREFIX", "PYTHONUNBUFFERED")
CLIENT = """\
#!{python} -IS
import os, sys
import _signal as signal, _socket as socket  # without their enumerations, whose import is half of this program's time
program, arguments = os.path.basename(sys.argv[0]), sys.argv[1:]
others = [name for name in os.listdir("/proc/self/fd") if int(name) > 2 and os.path.exists("/proc/self/fd/" + name)]
server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
try:
    if others:  # a pipe to the program that starts it
        raise OSError
    server.connect(os.environ.get("WARM_START", {address!r}))
except OSError:  # or another user, or another root folder
    os.execv(path := os.path.join({programs!r}, program), [path, *arguments])
request = repr((program, arguments, os.getcwd(), dict(os.environ))).encode()
files = b"".join(file.to_bytes(4, sys.byteorder) for file in range(3))
server.sendmsg([len(request).to_bytes(4, "big")], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, files)])
server.sendall(request)
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, lambda number, _: server.send(bytes([number])))
ended = server.recv(4)
code = int.from_bytes(ended, "big", signed=True) if ended else 1
if code < 0:
    if -code != signal.SIGKILL:
        signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)
os._exit(code)
"""


@contextmanager
def server(folder: Path) -> Iterator[Path]:
    """Run the server; yield the folder of programs that goes to the front of PATH. They wait until it has loaded all."""
    address, programs = folder / "socket", folder / "programs"
    programs.mkdir(parents=True)
    python = getattr(sys, "_base_executable", sys.executable)
    text = CLIENT.format(python=python, address=str(address), programs=str(Path(sys.executable).parent))
    for name in PROGRAMS:
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    process = subprocess.Popen([sys.executable, "-P", __file__, str(address), str(programs)], start_new_session=True)
    try:
        yield programs
    finally:
        process.terminate()
        process.wait()


def load() -> None:
    """Load the libraries, and let them do what they would do first in each process."""
    for library in LIBRARIES.split():
        import_module(library)
    import_module("dvc.cli.parser").get_main_parser()  # of all commands; it is kept
    import_module("dvc.config").get_compiled_schema()
    import_module("mlflow.store.db.base_sql_model").Base.registry.configure()  # the mappers of MLflow's tables
    COMMANDS.update((each.name, each) for each in entry_points(group="console_scripts") if each.name in PROGRAMS)


def lighten() -> None:
    """Make each fork of this process cheap: it copies less, and at its end has nothing of these libraries to take down."""
    gc.collect()
    gc.freeze()
    for finalizer in weakref.finalize._registry:  # type: ignore[attr-defined]
        finalizer.atexit = False  # PyTorch's alone take 40 ms, and write to 40 MB that are shared until then
    advise = ctypes.CDLL(None).madvise  # an older Linux refuses, and a fork takes longer
    for line in Path("/proc/self/maps").read_text().splitlines():
        addresses, permissions, _, _, inode, *_ = line.split()
        start, end = (int(address, 16) for address in addresses.split("-"))
        start, end = -(-start // LARGE_PAGE_BYTES) * LARGE_PAGE_BYTES, end // LARGE_PAGE_BYTES * LARGE_PAGE_BYTES
        if permissions == "rw-p" and inode == "0" and start < end:
            advise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), MADV_COLLAPSE)


def listen(address: Path) -> socket.socket:
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(address))
    listening.listen(64)
    return listening


def serve(listening: socket.socket, programs: Path, loaded_with: dict[str, str]) -> NoReturn:
    """Answer requests, each in a process of its own."""
    if asked := _next(listening):
        try:
            become(programs, *asked, loaded_with)
        except BaseException as error:
            end(error)
        end(None)
    os._exit(0)


def serve_below(programs: Path, loaded_with: dict[str, str]) -> None:
    """Start a server that ends with this process, whose descendants its processes are then, as those of DVC have to be."""
    address = Path(tempfile.mkdtemp(dir=programs)) / "socket"
    listening = listen(address)
    os.environ["WARM_START"] = str(address)
    if not os.fork():
        end_with_parent()
        nowhere = os.open(os.devnull, os.O_RDWR)
        for number in range(3):
            os.dup2(nowhere, number)
        serve(listening, programs, loaded_with)
    listening.close()


def end_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _next(listening: socket.socket) -> tuple[str, list[str], str, dict[str, str], list[int]] | None:
    """Return None at the end, and in each forked process what it is asked to run."""
    selector = selectors.DefaultSelector()
    ended, woken = socket.socketpair()
    signal.signal(signal.SIGTERM, lambda *_: ended.close())
    selector.register(listening, selectors.EVENT_READ, None)
    selector.register(woken, selectors.EVENT_READ, None)
    clients: dict[int, tuple[socket.socket, int]] = {}  # by process
    while True:
        for key, _ in selector.select():
            if key.fileobj is woken:
                for pid in clients:
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                return None
            if key.fileobj is listening:
                client, _ = listening.accept()
                with suppress(EOFError):
                    request, files = receive(client)
                    if not (pid := os.fork()):
                        for each in (listening, ended, woken, client, *(known for known, _ in clients.values())):
                            each.close()
                        for _, descriptor in clients.values():
                            os.close(descriptor)
                        selector.close()
                        return *request, files
                    for file in files:
                        os.close(file)
                    clients[pid] = client, os.pidfd_open(pid)
                    selector.register(client, selectors.EVENT_READ, pid)
                    selector.register(clients[pid][1], selectors.EVENT_READ, pid)
                continue
            pid = key.data
            if pid not in clients:
                continue
            client, descriptor = clients[pid]
            if key.fileobj == descriptor:
                code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                with suppress(OSError):
                    client.send(code.to_bytes(4, "big", signed=True))
                selector.unregister(descriptor)
                with suppress(KeyError):
                    selector.unregister(client)
                os.close(descriptor)
                client.close()
                del clients[pid]
                continue
            try:
                numbers = client.recv(16)
            except OSError:
                numbers = b""
            for number in numbers or (signal.SIGKILL,):
                with suppress(ProcessLookupError):
                    os.kill(pid, number)
            if not numbers:
                selector.unregister(client)


def receive(client: socket.socket) -> tuple[Any, list[int]]:
    """Return a request and the files that are its standard input, output and error."""
    size, files, _, _ = socket.recv_fds(client, 4, 3)
    if len(files) < 3:
        raise EOFError
    text = b""
    while len(text) < int.from_bytes(size, "big"):
        if not (more := client.recv(1 << 20)):
            raise EOFError
        text += more
    return literal_eval(text.decode()), list(files)


def become(
    programs: Path,
    program: str,
    arguments: list[str],
    folder: str,
    environment: dict[str, str],
    files: list[int],
    loaded_with: dict[str, str],
) -> None:
    """Run a program as its own process would."""
    os.setsid()
    for number, file in enumerate(files):
        os.dup2(file, number)
    for file in files:
        os.close(file)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    plain = [each for each in arguments if each not in ("-B", "-P")]
    is_plain = program != "python" or (bool(plain) and (plain[0] in ("-c", "-m") or plain[0][0] != "-"))
    paths = [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path]
    names = {file.stem for path in paths for file in Path(path).glob("*")} - {"sitecustomize"}
    is_shadowed = any(name in sys.modules or name == "usercustomize" for name in names)
    held = {name: value for name, value in loaded_with.items() if name.startswith(HELD)}
    if held | read_at_start() != loaded_with or not is_plain or is_shadowed:
        cold = str(Path(sys.executable).parent / program)
        os.execv(cold, [cold, *arguments])
    sys.path[:0] = paths
    tempfile.tempdir = None  # for TMPDIR
    sys.dont_write_bytecode = "-B" in arguments[: -len(plain)] or bool(environment.get("PYTHONDONTWRITEBYTECODE"))
    sys.pycache_prefix = environment.get("PYTHONPYCACHEPREFIX") or None
    if (program == "dvc" or plain[:2] == ["-m", "dvc"]) and RUNNING & set(arguments):
        serve_below(programs, loaded_with)
    # The server's own streams know what its files were, as whether they can be sought.
    for name, number, mode in (("stdin", 0, "r"), ("stdout", 1, "w"), ("stderr", 2, "w")):
        old: Any = getattr(sys, name)
        buffering = 1 if number == 2 or os.isatty(number) else -1
        new = os.fdopen(number, mode, buffering, encoding=old.encoding, errors=old.errors, closefd=False)
        if number and os.environ.get("PYTHONUNBUFFERED"):
            new.reconfigure(write_through=True)
        setattr(sys, name, new)
        setattr(sys, f"__{name}__", new)
    sys.executable = str(programs / "python")
    if any((Path(path) / "sitecustomize.py").exists() for path in paths):
        sys.modules.pop("sitecustomize", None)
        import_module("sitecustomize")
    if program != "python":
        sys.argv = [str(programs / program), *arguments]
        sys.exit(COMMANDS[program].load()())
    is_safe = "-P" in arguments[: -len(plain)]
    if plain[0] in ("-c", "-m"):
        kind, what, *rest = plain
        sys.path[:0] = [] if is_safe else ["" if kind == "-c" else folder]
        sys.argv = [kind if kind == "-c" else what, *rest]
        if kind == "-c":
            sys.modules["__main__"] = ModuleType("__main__")  # this module's own names stay what they are
            exec(compile(what, "<string>", "exec"), vars(sys.modules["__main__"]))
        else:
            runpy.run_module(what, run_name="__main__", alter_sys=True)
    else:
        sys.path[:0] = [] if is_safe else [str(Path(plain[0]).resolve().parent)]
        sys.argv = plain
        runpy.run_path(plain[0], run_name="__main__")


def read_at_start() -> dict[str, str]:
    return {
        name: value for name, value in os.environ.items() if name.startswith(READ_AT_START) and name not in SET_LATER
    }


def end(error: BaseException | None) -> None:
    """End this process as Python does, but without taking all those libraries down one by one."""
    code = 0
    if isinstance(error, SystemExit):
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
        if error.code is not None and not isinstance(error.code, int):
            print(error.code, file=sys.stderr)
    elif isinstance(error, KeyboardInterrupt):
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    elif error is not None:
        sys.excepthook(type(error), error, error.__traceback__)
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    with suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    end_with_parent()
    os.environ |= {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_LOGGING_LEVEL": "CRITICAL"}  # as samebits does
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    values = read_at_start()
    listening = listen(Path(sys.argv[1]))
    gc.disable()  # the libraries make a million objects and no garbage
    load()
    gc.enable()
    lighten()
    serve(listening, Path(sys.argv[2]), values)
