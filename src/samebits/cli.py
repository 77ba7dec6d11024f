"""The `samebits` command: what DVC and MLflow have no command for.

Each command imports what it needs when it runs, so that `samebits run` without work imports neither PyTorch nor MLflow.
"""

import os
import sys
from pathlib import Path
from typing import Any

import click
from click import argument, option

from samebits import atomic, paths
from samebits.errors import UserError, as_one_line, printable

_PATH = click.Path(path_type=Path)


class _Command(click.Command):
    """A command that ends with one line on stderr and the exit code `mistake` if the user made one."""

    def __init__(self, *args: Any, mistake: int = 1, **options: Any) -> None:
        super().__init__(*args, **options)
        self._mistake = mistake

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command and return its exit code."""
        with as_one_line(self._mistake):
            return super().invoke(ctx)


class _Commands(click.Group):
    command_class = _Command

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the commands in the order of this file."""
        return list(self.commands)


@click.group(cls=_Commands, no_args_is_help=False)
@click.version_option(package_name="samebits", message="%(prog)s %(version)s")
def samebits() -> None:
    """Reproduce, compare, use and share the results of this pipeline: what DVC and MLflow have no command for."""


def main() -> None:
    """Run the command line; a usage mistake is one line on stderr and exit code 2."""
    try:
        sys.exit(samebits.main(prog_name="samebits", standalone_mode=False))
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "samebits"
        message = printable(error.format_message().rstrip("."))
        print(f"error: {message}: see `{command} --help`", file=sys.stderr)
        sys.exit(error.exit_code)
    except click.Abort:  # Ctrl-C before a command has begun
        sys.exit(130)


@samebits.command()
def run() -> int:
    """Get the data, run the pipeline, show the result."""
    from samebits import quickstart

    return quickstart.run(Path.cwd())


@samebits.command()
@argument("address", metavar="HOST:PORT", help="Where the first machine listens: its SAMEBITS_LISTEN.")
@option(
    "--wait",
    metavar="SECONDS",
    type=click.FloatRange(0),
    default=0.0,
    help="How long to wait for it, at the start and if it is lost (default: 0).",
)
def join(address: str, wait: float) -> int:
    """Lend this machine to the training of another one."""
    os.chdir(_repository())
    os.execv(sys.executable, [sys.executable, "stages/train.py", "join", address, str(wait)])


@samebits.command(mistake=2, epilog="Exit code: 0 identical, 1 different, 2 could not be run.")
@argument("revision", metavar="[REV]", required=False, help="Commit, branch, tag or DVC experiment (default: HEAD).")
@option("--run", "run_id", metavar="RUN_ID", help="Verify an MLflow run instead of a revision.")
@option("--keep", is_flag=True, help="With --run: keep the clone that it ran in, to work there.")
@option("--yes", is_flag=True, help="With --run: run its code without asking.")
@option("--stage", metavar="NAME", help="Stop after this stage.")
def verify(revision: str | None, run_id: str | None, keep: bool, yes: bool, stage: str | None) -> int:
    """Run a revision again from nothing and compare each output.

    All stages run in a clean clone; every output is compared with what the revision's dvc.lock records.
    """
    from samebits.proof import verify as proof

    if run_id is None:
        if yes:
            raise UserError("--yes goes with --run: a revision of your own clone runs unasked")
        if keep:
            raise UserError("--keep goes with --run; a revision's own worktree is made by `git worktree add`")
        return proof.verify(Path.cwd(), revision or "HEAD", stage)
    if revision is not None:
        raise UserError("give a revision or a run, not both")
    return proof.verify_run(Path.cwd(), run_id, keep, stage, yes)


@samebits.command()
@option("--repair", is_flag=True, help="Remove damaged objects of DVC's cache, and damaged or false run records.")
def check(repair: bool) -> int:
    """Check the health of this clone and name the remedies."""
    from samebits.health.check import check

    return check(Path.cwd(), repair)


@samebits.command()
@option("--to", "remote", metavar="REMOTE", help="Name of a DVC remote (default: DVC's default).")
def share(remote: str | None) -> int:
    """Send a DVC remote all that restores the results known here."""
    from samebits.repository.sharing import share

    share(Path.cwd(), remote)
    return 0


@samebits.command()
@argument(
    "revisions", metavar="[REV]...", nargs=-1, help="Commits, branches, tags, experiments (default: the workspace)."
)
@option("--all", "everything", is_flag=True, help="Every commit and experiment.")
def track(revisions: tuple[str, ...], everything: bool) -> int:
    """Make sure that MLflow holds the run of each result."""
    from samebits.tracking import backfill, store

    if everything and revisions:
        raise UserError("--all already means every revision: leave out the others")
    root = _repository()
    counts = backfill.track(root, revisions, everything)
    there = f"{counts['new']} new, {counts['completed']} completed, {counts['there']} there already"
    there += f"; {counts['left out']} without a complete result left out" if counts["left out"] else ""
    print(f"runs in {store.without_password(store.tracking_uri(root))}: {there}")
    return 0


@samebits.command()
@option(
    "--port",
    metavar="N",
    type=click.IntRange(1, 65535),
    default=5000,
    show_default=True,
    help="If it is in use, the next free one.",
)
def ui(port: int) -> int:
    """Open MLflow's page with the runs of this project."""
    from samebits.tracking import runs_page

    return runs_page.show(_repository(), port)


def _points(_context: click.Context, _option: click.Parameter, points: float | None) -> float | None:
    if points is not None and not 0 <= points <= 100:
        raise click.BadParameter(f"{points} is no number of percentage points from 0 to 100")
    return points


@samebits.command(mistake=2, epilog="Exit code: 0, 1 if B is worse (--fail-if-worse), 2 if they could not be compared.")
@argument("a", metavar="A", help="The result to compare with.")
@argument("b", metavar="B", help="The result to judge.")
@option("--seeds", is_flag=True, help="Compare groups: all results that differ from A, and from B, in the seed alone.")
@option("--json", is_flag=True, help="Print JSON.")
@option("--markdown", is_flag=True, help="Print Markdown, for a pull request.")
@option(
    "--html", metavar="[FILE]", is_flag=False, flag_value="comparison.html", help="Write a page too: comparison.html."
)
@option(
    "--fail-if-worse",
    metavar="[POINTS]",
    type=float,
    is_flag=False,
    flag_value="0",
    callback=_points,
    help="Exit with 1 if the whole 95 % interval says that B's accuracy is lower by more than POINTS (0) percentage points.",
)
def compare(
    a: str, b: str, seeds: bool, json: bool, markdown: bool, html: str | None, fail_if_worse: float | None
) -> int:
    """Tell whether B is better than A, or whether that is noise.

    A and B: a commit, branch, tag, DVC experiment or `workspace`; or a pattern of experiments' names, such as 'lab-*',
    which differ in nothing but the seed.
    """
    from samebits.comparison import outcome
    from samebits.reporting import comparison_tables

    _require_one(json=json, markdown=markdown)
    if html:
        atomic.require_writable(Path(html))
    compared = outcome.compare(_repository(), a, b, seeds)
    if html:
        from samebits.reporting import page

        page.write_comparison(compared, Path(html))
        print(f"page: {html}", file=sys.stderr)
    shown = comparison_tables.FORMATS["json" if json else "markdown" if markdown else "terminal"](compared)
    try:
        print(shown, flush=True)
    except BrokenPipeError:  # the reader, such as `head`, has seen enough: the exit code still tells
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return int(fail_if_worse is not None and outcome.is_worse(compared, fail_if_worse))


@samebits.command()
@argument("file", metavar="FILE", type=_PATH, help="Describes the search, such as searches/lab.yaml.")
@option(
    "--workers", metavar="N", type=click.IntRange(1, 256), default=1, show_default=True, help="Processes that train."
)
@option(
    "--report", metavar="[PAGE]", is_flag=False, flag_value="search.html", help="Write a page about it: search.html."
)
def search(file: Path, workers: int, report: str | None) -> int:
    """Search for good parameters: each time the same winner."""
    from samebits.search import session

    if report:
        atomic.require_writable(Path(report))
    outcome = session.run(_repository(), file, workers)
    print(*outcome.lines(), sep="\n")
    if report:
        from samebits.reporting.search_page import search_page

        atomic.write_text(Path(report), search_page(outcome.search, outcome.trials, outcome.confirmation))
        print(f"page: {printable(report)}")
    print(f"digest: {outcome.digest}")
    return 0


@samebits.command()
@argument("revision", metavar="[REV]", default="workspace", help="Commit, branch, tag, experiment or `workspace`.")
@option("--against", metavar="REV", help="Show the comparison with this result beside it.")
@option("--output", metavar="FILE", default=paths.REPORT, show_default=True, help="Where to write it.")
def report(revision: str, against: str | None, output: str) -> int:
    """Write a page about a result: report.html."""
    from samebits.comparison import outcome, selection
    from samebits.reporting import page

    root, path = _repository(), Path(output)
    atomic.require_writable(path)  # before the comparison, which takes its time
    result = selection.find(root, revision)
    if against is None:
        page.write_result(result, path)
    else:
        page.write_comparison(outcome.compare_networks(selection.find(root, against), result), path)
    print(f"page: {printable(output)}")
    return 0


_REV = option("--rev", metavar="REV", help="The network of this commit, branch, tag, experiment or `workspace`.")
_CHECKPOINT = option("--checkpoint", metavar="FILE", type=_PATH, help="The network in this file, whoever made it.")


@samebits.command()
@argument(
    "files",
    metavar="FILE|FOLDER...",
    nargs=-1,
    required=True,
    help="Images, folders that hold images, patterns such as 'holiday/*.jpg', or - for names on standard input.",
)
@option("--labelled", is_flag=True, help="Print the accuracy; each FOLDER holds one folder for each class.")
@_REV
@_CHECKPOINT
@option("--top", metavar="K", type=int, default=3, show_default=True, help="Name the K most probable classes.")
@option("--json", is_flag=True, help="Write JSON.")
@option("--csv", is_flag=True, help="Write CSV.")
@option("--picture", metavar="PNG", type=_PATH, help="Draw the first 40 images with their labels.")
def predict(
    files: tuple[str, ...],
    labelled: bool,
    rev: str | None,
    checkpoint: Path | None,
    top: int,
    json: bool,
    csv: bool,
    picture: Path | None,
) -> int:
    """Apply the trained network to images of any size."""
    from samebits.prediction import batch, trained

    _require_one(rev=rev, checkpoint=checkpoint)
    _require_one(json=json, csv=csv)
    batch.require_options(top, picture)
    network = trained.load(trained.clone_root(Path.cwd()), rev, checkpoint)
    return batch.predict_files(network, files, "json" if json else "csv" if csv else "text", top, picture, labelled)


@samebits.command()
@_REV
@_CHECKPOINT
@option("--output", metavar="FILE", type=_PATH, help=f"Where to write it: by default {paths.EXPORTED} of the clone.")
def export(rev: str | None, checkpoint: Path | None, output: Path | None) -> int:
    """Write the trained network as an ONNX file for other programs."""
    from samebits.prediction import onnx_export, trained

    _require_one(rev=rev, checkpoint=checkpoint)
    root = trained.clone_root(Path.cwd())
    path = output or Path(os.path.relpath(root / paths.EXPORTED))
    onnx_export.export(root, trained.load(root, rev, checkpoint), path)
    return 0


@samebits.command()
@argument("name", metavar="[NAME]", default="samebits", help="Name of the model (default: samebits).")
@_REV
def register(name: str, rev: str | None) -> int:
    """Register the trained network as an MLflow model, to be served."""
    from samebits.prediction import registration, trained

    root = trained.clone_root(Path.cwd())
    registration.register(root, trained.load(root, rev), name)
    return 0


@samebits.command()
def link() -> int:
    """Link the code that each recipe uses, for DVC to follow."""
    from samebits import params, recipe_links

    root = _repository()
    recipes = params.load(root / paths.PARAMETERS).recipes
    for made in recipe_links.create(root, recipes):
        print(made)
    for link in recipe_links.unnamed(root, recipes):
        print(
            f"note: {link} is of no part that {paths.PARAMETERS} names: `git rm {link}`, unless another part imports it"
        )
    return 0


def _require_one(**given: object) -> None:
    """Raise UsageError if two options that exclude each other are given."""
    named = [f"--{name}" for name, value in given.items() if value]
    if len(named) > 1:
        raise click.UsageError(f"{' and '.join(named)} exclude each other", click.get_current_context())


def _repository() -> Path:
    from samebits.repository import git

    return git.require_repository(Path.cwd())


if __name__ == "__main__":
    main()
