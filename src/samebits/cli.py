"""The `samebits` command: what DVC and MLflow have no command for."""

import argparse
import hashlib
import json
import os
import sys
from pathlib import Path

from samebits import params
from samebits.data import cifar10
from samebits.errors import UserError, as_one_line
from samebits.reporting import terminal
from samebits.repository import git, pipeline


def main() -> None:
    """Run the command line; a user's mistake is one line on stderr and the command's own exit code."""
    parser = argparse.ArgumentParser(prog="samebits", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    command = commands.add_parser("run", help="get the data, run the pipeline, show the result")
    command.set_defaults(action=run, mistake=1)
    command = commands.add_parser(
        "verify",
        help="run a revision once more, from nothing, and compare every output with its dvc.lock",
        epilog="Exit code: 0 identical, 1 different, 2 could not be run.",
    )
    command.add_argument(
        "revision", metavar="REV", nargs="?", default="HEAD", help="commit, branch, tag or DVC experiment"
    )
    command.add_argument("--stage", metavar="NAME", help="run no further than this stage")
    command.set_defaults(action=verify, mistake=2)
    command = commands.add_parser("check", help="check the health of this clone and name the remedies")
    command.add_argument("--repair", action="store_true", help="remove damaged objects from DVC's cache")
    command.set_defaults(action=check, mistake=1)
    command = commands.add_parser("predict", help="apply the trained network to images of any format and size")
    command.add_argument("paths", metavar="FILE|FOLDER", nargs="+", help="images, or folders with images below them")
    _add_network(command)
    command.add_argument("--top", metavar="K", type=int, default=3, help="name the K most probable classes (3)")
    output = command.add_mutually_exclusive_group()
    output.add_argument("--json", action="store_true", help="write one JSON array")
    output.add_argument("--csv", action="store_true", help="write CSV")
    command.add_argument("--picture", metavar="PNG", type=Path, help="draw the first 40 images with their labels")
    command.set_defaults(action=predict, mistake=1)
    command = commands.add_parser("export", help="write the trained network as a file that other programs run")
    _add_network(command)
    command.add_argument("--format", choices=["onnx"], default="onnx", help="onnx, the only one so far")
    command.add_argument(
        "--output", metavar="FILE", type=Path, default=Path("data/export/model.onnx"), help="where to (%(default)s)"
    )
    command.set_defaults(action=export, mistake=1)
    command = commands.add_parser("register", help="register the trained network as an MLflow model, to be served")
    command.add_argument("name", metavar="NAME", nargs="?", default="samebits", help="of the model (samebits)")
    command.add_argument("--rev", metavar="REV", help="the network of this commit, branch, tag or DVC experiment")
    command.set_defaults(action=register, mistake=1)
    arguments = parser.parse_args()
    with as_one_line(arguments.mistake):
        sys.exit(arguments.action(Path.cwd(), arguments))


def verify(folder: Path, arguments: argparse.Namespace) -> int:
    """Run a revision once more, from nothing, and compare its outputs with what it recorded."""
    from samebits.verification.verify import verify  # here, for `samebits run` has no use for it

    return verify(folder, arguments.revision, arguments.stage)


def check(root: Path, arguments: argparse.Namespace) -> int:
    """Check the health of a clone and name the remedy of each thing that is wrong."""
    from samebits.verification.check import check  # here, for `samebits run` has no use for it

    return check(root, arguments.repair)


def predict(folder: Path, arguments: argparse.Namespace) -> int:
    """Apply the trained network to images."""
    from samebits.prediction import command  # here, for `samebits run` has no use for it

    return command.run(folder, arguments)


def export(folder: Path, arguments: argparse.Namespace) -> int:
    """Write the trained network as an ONNX model."""
    from samebits.prediction import onnx_export, trained

    onnx_export.export(folder, trained.load(folder, arguments.rev, arguments.checkpoint), arguments.output)
    return 0


def register(folder: Path, arguments: argparse.Namespace) -> int:
    """Register the trained network as an MLflow model."""
    from samebits.prediction import registration, trained

    registration.register(folder, trained.load(folder, arguments.rev), arguments.name)
    return 0


def _add_network(command: argparse.ArgumentParser) -> None:
    network = command.add_mutually_exclusive_group()
    network.add_argument("--rev", metavar="REV", help="the network of this commit, branch, tag or DVC experiment")
    network.add_argument("--checkpoint", metavar="FILE", type=Path, help="the network in this file, whoever made it")


def run(root: Path, _: argparse.Namespace) -> int:
    """Get the data, run the pipeline and show the result; without CIFAR-10, an experiment on the embedded data."""
    if not (root / "dvc.yaml").is_file():
        raise UserError(f"{root} has no dvc.yaml: run this in the root of a clone of samebits")
    settings = params.load(root / "params.yaml")
    raw = root / settings.data.path
    if settings.data.source == "cifar10" and not cifar10.is_at_hand(raw) and pipeline.has_to_run(root, "prepare"):
        try:
            cifar10.download(raw)
        except cifar10.CannotHave as error:
            return _run_on_shapes(root, error)
    if code := pipeline.reproduce(root):
        return code
    measured = json.loads((root / "metrics/evaluate.json").read_text(encoding="utf-8"))
    print(f"\n{settings.recipe} on {settings.data.source}, seed {settings.seed}")
    print(terminal.accuracy_table(measured))
    if sentence := _other_kind(root, measured["accuracy"]):
        print(sentence)
    _say_where(root / "data/plots")
    return 0


def _run_on_shapes(root: Path, why: cifar10.CannotHave) -> int:
    """Run the same pipeline on `shapes`, as an experiment: what git tracks stays as it is."""
    print(f"{why.reason}: running on shapes, the embedded data, as an experiment instead.", file=sys.stderr)
    state = hashlib.sha256((git.commit(root) or "").encode() + git.diff(root)).hexdigest()
    name = f"shapes-{state[:7]}"
    is_known = name in pipeline.experiments(root)
    if not is_known and (code := pipeline.run_experiment(root, name, {"data.source": "shapes"})):
        return code
    folder = root / "data/experiments" / name
    folder.mkdir(parents=True, exist_ok=True)
    for path in ("data/plots", "metrics/evaluate.json"):
        pipeline.fetch(root, name, path, folder / Path(path).name)
    print(f"\nexperiment {name} on shapes (not CIFAR-10)")
    print(terminal.accuracy_table(json.loads((folder / "evaluate.json").read_text(encoding="utf-8"))))
    _say_where(folder / "plots")
    return 0


def _other_kind(root: Path, accuracy: float) -> str | None:
    """Say how this machine differs from the recorded result's, where the same parameters were recorded by another."""
    recorded = {
        name: git.read(root, "HEAD", name)
        for name in ("params.yaml", "metrics/environment.json", "metrics/evaluate.json")
    }
    if not all(recorded.values()) or recorded["params.yaml"] != (root / "params.yaml").read_bytes():
        return None
    here = json.loads((root / "metrics/environment.json").read_text(encoding="utf-8"))
    differences = terminal.differences(json.loads(recorded["metrics/environment.json"]), here)
    if not differences:
        return None
    before = json.loads(recorded["metrics/evaluate.json"])["accuracy"]
    return (
        f"The recorded result comes from another kind of machine ({'; '.join(differences)}): "
        f"its accuracy is {100 * before:.2f} %, this one's {100 * accuracy:.2f} %."
    )


def _say_where(pictures: Path) -> None:
    print(f"pictures: {os.path.relpath(pictures)}/*.png   tracking page: make ui")


if __name__ == "__main__":
    main()
