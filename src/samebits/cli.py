"""The `samebits` command: what DVC and MLflow have no command for."""

import argparse
import os
import sys
from pathlib import Path

from samebits import atomic, quickstart
from samebits.errors import UserError, as_one_line
from samebits.repository import git


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
        "revision", metavar="REV", nargs="?", help="commit, branch, tag or DVC experiment; HEAD without one"
    )
    command.add_argument("--run", metavar="RUN_ID", help="an MLflow run in place of a revision")
    command.add_argument(
        "--keep", action="store_true", help="with --run: leave the clone that it ran in, to work there"
    )
    command.add_argument("--yes", action="store_true", help="with --run: run its code without being asked")
    command.add_argument("--stage", metavar="NAME", help="run no further than this stage")
    command.set_defaults(action=verify, mistake=2)
    command = commands.add_parser("check", help="check the health of this clone and name the remedies")
    command.add_argument("--repair", action="store_true", help="remove damaged objects from DVC's cache")
    command.set_defaults(action=check, mistake=1)
    command = commands.add_parser(
        "share", help="send a DVC remote what a colleague needs to restore any result known here"
    )
    command.add_argument(
        "--to", metavar="REMOTE", help="the name of a DVC remote; the default one where it is left out"
    )
    command.set_defaults(action=share, mistake=1)
    command = commands.add_parser("track", help="make sure that MLflow holds the run of each result")
    command.add_argument(
        "revisions",
        metavar="REV",
        nargs="*",
        help="commits, branches, tags or DVC experiments; without one, the workspace",
    )
    command.add_argument("--all", action="store_true", help="every commit and experiment")
    command.set_defaults(action=track, mistake=1)
    command = commands.add_parser(
        "compare",
        help="tell whether one result, or one group of seeds, is better than another, or whether that is noise",
        description="A and B: a commit, branch, tag, DVC experiment or `workspace`; or a pattern of experiments' names, as in "
        "'lab-*', which differ in nothing but the seed.",
        epilog="Exit code: 0, also where nothing can be told; 1 B is worse (--fail-if-worse); 2 could not be compared.",
    )
    command.add_argument("a", metavar="A", help="what is compared with")
    command.add_argument("b", metavar="B", help="what is compared")
    command.add_argument(
        "--seeds",
        action="store_true",
        help="A and B stand for all results that differ from them in nothing but the seed",
    )
    output = command.add_mutually_exclusive_group()
    output.add_argument("--json", dest="format", action="store_const", const="json", help="print JSON")
    output.add_argument(
        "--markdown", dest="format", action="store_const", const="markdown", help="print Markdown, for a pull request"
    )
    command.add_argument(
        "--html", metavar="FILE", nargs="?", const="comparison.html", help="write a page too (comparison.html)"
    )
    command.add_argument(
        "--fail-if-worse",
        metavar="POINTS",
        nargs="?",
        type=_points,
        const=0.0,
        help="exit with 1 where the whole 95 %% interval says that B's accuracy is lower by more than POINTS (0) percentage points",
    )
    command.set_defaults(action=compare, mistake=2, format="terminal")
    command = commands.add_parser("report", help=f"write a page about a result: {quickstart.REPORT}")
    command.add_argument(
        "revision",
        metavar="REV",
        nargs="?",
        default="workspace",
        help="commit, branch, tag, DVC experiment or `workspace`",
    )
    command.add_argument("--against", metavar="REV", help="show the comparison with this result beside it")
    command.add_argument(
        "--output", metavar="FILE", default=quickstart.REPORT, help=f"where to write it ({quickstart.REPORT})"
    )
    command.set_defaults(action=report, mistake=1)
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
    from samebits.proof.verify import verify, verify_run  # here, for `samebits run` has no use for them

    is_run = arguments.run is not None
    if is_run and arguments.revision is not None:
        raise UserError("give a revision or a run, not both")
    if arguments.yes and not is_run:
        raise UserError("--yes goes with --run: a revision of your own clone runs unasked")
    if arguments.keep and not is_run:
        raise UserError("--keep goes with --run; a revision's own worktree is made by `git worktree add`")
    if is_run:
        return verify_run(folder, arguments.run, arguments.keep, arguments.stage, arguments.yes)
    return verify(folder, arguments.revision or "HEAD", arguments.stage)


def check(root: Path, arguments: argparse.Namespace) -> int:
    """Check the health of a clone and name the remedy of each thing that is wrong."""
    from samebits.health.check import check  # here, for `samebits run` has no use for it

    return check(root, arguments.repair)


def share(root: Path, arguments: argparse.Namespace) -> int:
    """Send a DVC remote what a colleague needs to restore any result that this repository knows."""
    from samebits.repository.sharing import share  # here, for `samebits run` has no use for it

    return share(root, arguments.to)


def track(root: Path, arguments: argparse.Namespace) -> int:
    """Make sure that MLflow holds the run of each result."""
    from samebits.tracking import backfill, store  # here, for importing MLflow takes a second

    if arguments.all and arguments.revisions:
        raise UserError("--all already means every revision: leave out the others")
    counts = backfill.track(root, arguments.revisions, arguments.all)
    there = f"{counts['new']} new, {counts['completed']} completed, {counts['there']} there already"
    if counts["left out"]:
        there += f"; {counts['left out']} without a complete result left out"
    print(f"runs in {store.without_password(store.tracking_uri(root))}: {there}")
    return 0


def compare(folder: Path, arguments: argparse.Namespace) -> int:
    """Compare two results or two groups of seeds; 1 where B is worse and that was asked for."""
    from samebits.comparison.compare import compare  # here, for `samebits run` has no use for it
    from samebits.reporting import comparison_tables as shown

    if arguments.html:
        atomic.require_writable(folder / arguments.html)
    compared = compare(_repository(folder), arguments.a, arguments.b, arguments.seeds)
    if arguments.html:
        from samebits.reporting import page

        page.write_comparison(compared, folder / arguments.html)
        print(f"page: {arguments.html}", file=sys.stderr)
    try:
        print(shown.FORMATS[arguments.format](compared), flush=True)
    except BrokenPipeError:  # whoever reads has had enough, as `head` has; Python would complain again at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return int(arguments.fail_if_worse is not None and compared.is_worse(arguments.fail_if_worse))


def report(folder: Path, arguments: argparse.Namespace) -> int:
    """Write the page of a result, with the comparison with another one where that is asked for."""
    from samebits.comparison import compare, selection
    from samebits.reporting import page

    root, path = _repository(folder), folder / arguments.output
    atomic.require_writable(path)  # here, for a comparison takes its time before the page is begun
    revision = selection.find(root, arguments.revision)
    if arguments.against is None:
        page.write_result(revision, path)
    else:
        page.write_comparison(compare.of_networks(selection.find(root, arguments.against), revision), path)
    print(f"page: {arguments.output}")
    return 0


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
    """Get the data, run the pipeline and show the result."""
    return quickstart.run(root)


def _repository(folder: Path) -> Path:
    if root := git.top_folder(folder):
        return root
    raise UserError(f"{folder} is in no git repository: run this in a clone of samebits")


def _points(text: str) -> float:
    try:
        points = float(text)
    except ValueError:
        points = -1.0
    if not 0 <= points <= 100:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of percentage points from 0 to 100")
    return points


if __name__ == "__main__":
    main()
