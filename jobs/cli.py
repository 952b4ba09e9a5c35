"""The ``fdi`` command: reads the command line, calls one job, prints its summary, returns its exit code.

Does NOT know how any job works. Heavy libraries are imported only inside the command that needs them.
Exit codes: 0 done; 1 a bug or an outage, running again resumes; 2 the request can't work as written; 3 too many images
failed; 4 ``verify`` found a difference.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from types import FrameType
from typing import Any

from fdi_lib.errors import FDIError
from fdi_lib.manifest import StorageSettings, load_manifest
from fdi_lib.manifest.locations import redact, refuse_secret
from jobs.outcome import Outcome, flush

TOO_MANY_FAILED, DIFFERENCES = 3, 4
_EPILOG = (
    "A manifest's keys are listed in docs/manifest.md. Credentials come from the environment, never from a manifest."
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; never raises for what a user can cause."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        options, rest = _options().parse_known_args(words)
        parser = _parser()
        args, extra = parser.parse_known_args(rest)
        if args.call is _pack:
            args.rest = rest[rest.index("pack") + 1 :]
        elif extra:
            parser.error(f"unrecognized arguments: {' '.join(map(redact, extra))}")
    except SystemExit as exc:  # argparse has already said why, or helped
        flush()
        return exc.code if isinstance(exc.code, int) else 2
    _log_to_stderr(logging.DEBUG if options.verbose else logging.INFO)
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        outcome: Outcome = args.call(args)
    except FDIError as exc:
        print(f"fdi: {exc}", file=sys.stderr)
        return exc.exit_code
    except (KeyboardInterrupt, SystemExit) as exc:
        if isinstance(exc, SystemExit) and exc.code in (0, 2):  # fdi pack reads its own options
            flush()
            return exc.code
        print("fdi: interrupted; the same command resumes", file=sys.stderr)  # Ray's SIGTERM handler exits, too
        return 1
    except Exception:  # a bug: the one place that may catch it, to keep exit code 1 ours
        traceback.print_exc()
        return 1
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)
    outcome.show(options.json)
    return outcome.code


def entry() -> None:
    """The console command."""
    sys.exit(main())


def _log_to_stderr(level: int) -> None:
    logging.basicConfig(stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for ours in ("fdi_lib", "jobs"):  # libraries stay at warnings: libvips tells each step of each image
        logging.getLogger(ours).setLevel(level)


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _restore(args: argparse.Namespace) -> Outcome:
    manifest: Any = load_manifest(args.manifest, args.overrides, "restore")
    from jobs import restore

    return _accounted(restore.run(manifest))


def _plan(args: argparse.Namespace) -> Outcome:
    manifest: Any = load_manifest(args.manifest, args.overrides, "restore")
    from jobs import plan

    return Outcome(plan.run(manifest))


def _retry(args: argparse.Namespace) -> Outcome:
    from jobs import restore

    return _accounted(restore.retry(args.output, storage=_storage(args)))


def _status(args: argparse.Namespace) -> Outcome:
    from jobs import status

    summary = status.run(args.output, _storage(args))
    return Outcome(summary, status.text(summary))


def _failed(args: argparse.Namespace) -> Outcome:
    from jobs import failed

    summary = failed.run(args.output, _storage(args), args.reason)
    return Outcome(summary, failed.text(summary))


def _verify(args: argparse.Namespace) -> Outcome:
    from jobs import verify

    summary = verify.run(args.output, _storage(args), args.source_bytes)
    return Outcome(summary, verify.text(summary), DIFFERENCES if summary["differences"] else 0)


def _report(args: argparse.Namespace) -> Outcome:
    from jobs import report

    return Outcome(report.run(args.output, _storage(args)))


def _pack(args: argparse.Namespace) -> Outcome:
    from jobs import pack

    return Outcome(pack.main(args.rest))


def _bank_build(args: argparse.Namespace) -> Outcome:
    manifest: Any = load_manifest(args.manifest, args.overrides, "bank")
    from jobs import bank

    return Outcome(bank.build(manifest))


def _bank_show(args: argparse.Namespace) -> Outcome:
    from jobs import bank_show

    refuse_secret("URI", args.uri)
    summary = bank_show.run(args.uri, args.plot)
    return Outcome(summary, bank_show.text(summary))


def _train(args: argparse.Namespace) -> Outcome:
    manifest: Any = load_manifest(args.manifest, args.overrides, "train")
    from jobs import train

    return Outcome(train.run(manifest))


def _evaluate(args: argparse.Namespace) -> Outcome:
    manifest: Any = load_manifest(args.manifest, args.overrides, "evaluate")
    from jobs import evaluate

    return Outcome(evaluate.run(manifest))


def _adapters(args: argparse.Namespace) -> Outcome:
    from jobs import adapters

    summary = adapters.run(args.uri, _storage(args))
    return Outcome(summary, adapters.text(summary))


def _bench(args: argparse.Namespace) -> Outcome:
    manifest: Any = load_manifest(args.manifest, args.overrides, "bench")
    from jobs import bench

    return Outcome(bench.run(manifest))


def _demo(args: argparse.Namespace) -> Outcome:
    from jobs import demo

    return _accounted(demo.run(args.directory))


def _accounted(summary: dict[str, Any]) -> Outcome:
    """Exit code 3 when the run was stopped early, or more images failed than ``limits.max_failed_fraction``."""
    too_many = summary["stopped_early"] or summary["failed_fraction_exceeded"]
    return Outcome(summary, code=TOO_MANY_FAILED if too_many else 0)


# ---- the command line


def _options() -> argparse.ArgumentParser:
    """Options that may stand anywhere."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--json", action="store_true", help="print the summary as one JSON object on the last line")
    parser.add_argument("--verbose", "-v", action="store_true", help="say more on standard error")
    return parser


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fdi", description="Restore photograph archives.", epilog=_EPILOG, parents=[_options()], allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"fdi-restore {_version()}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def add(name: str, call: Callable[[argparse.Namespace], Outcome], help: str, to: Any = None) -> Any:
        new = (to or commands).add_parser(name, help=help, description=help, parents=[_options()], allow_abbrev=False)
        new.set_defaults(call=call)
        return new

    for name, call, help in (
        ("restore", _restore, "run, or resume, a restoration"),
        ("plan", _plan, "classify only: counts per route, GPU-hour and storage estimate; writes no image"),
        ("train", _train, "train an adapter"),
        ("evaluate", _evaluate, "restored against reference: table, metrics.json"),
        ("bench", _bench, "throughput and overhead tables, bench.json"),
    ):
        _takes_manifest(add(name, call, help))
    for name, call, help in (
        ("status", _status, "progress of a running or finished run: images/s, time left, counts per status"),
        ("failed", _failed, "what failed or waits for review, and why"),
        ("retry", _retry, "run only what failed or waits for review again"),
        ("verify", _verify, "accounting and fixity, re-read from storage"),
        ("report", _report, "(re)build OUTPUT/report/index.html"),
    ):
        command = add(name, call, help)
        command.add_argument("output", metavar="OUTPUT", help="output folder or prefix of a run")
        _takes_storage(command)
        if name == "failed":
            command.add_argument("--reason", help="only this reason, truncated for example")
        if name == "verify":
            help = "do not read and hash the sources again: only what is listed is compared"
            command.add_argument("--no-source-bytes", dest="source_bytes", action="store_false", help=help)

    help = "folder or prefix of images -> shards (WebDataset tar or Parquet)"
    commands.add_parser("pack", help=help, add_help=False, allow_abbrev=False).set_defaults(call=_pack)
    bank = commands.add_parser("bank", help="build or show a reference bank").add_subparsers(
        title="commands", metavar="COMMAND", required=True
    )
    _takes_manifest(add("build", _bank_build, "reference pairs -> reference bank", bank))
    show = add("show", _bank_show, "what a reference bank holds, and how well it tells degradations apart", bank)
    show.add_argument("uri", metavar="URI", help="the bank")
    show.add_argument("--plot", metavar="FILE", help="draw its held-out references into a PNG file")
    adapters = add("adapters", _adapters, "list adapters: task, base, encoder, parameters, hash, metrics")
    adapters.add_argument("uri", nargs="?", metavar="URI", help="folder or prefix of adapters; without it the shipped")
    _takes_storage(adapters)
    demo = add("demo", _demo, "make a small degraded archive from bundled photographs, and restore it")
    demo.add_argument("directory", nargs="?", default="out/demo", metavar="DIR", help="where it works (out/demo)")
    return parser


def _takes_manifest(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("manifest", metavar="MANIFEST", help="YAML file")
    parser.add_argument(
        "overrides", nargs="*", default=[], metavar="KEY=VALUE", help="override of a key by its dotted path"
    )


def _takes_storage(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--endpoint-url", metavar="URL", help="S3 endpoint, where it isn't Amazon's or the environment's"
    )
    parser.add_argument("--region", help="S3 region")


def _storage(args: argparse.Namespace) -> StorageSettings:
    for key, value in (("OUTPUT", "output"), ("URI", "uri"), ("--endpoint-url", "endpoint_url")):
        refuse_secret(key, getattr(args, value, None))
    return StorageSettings(endpoint_url=args.endpoint_url, region=args.region)


def _version() -> str:
    try:
        return version("fdi-restore")
    except PackageNotFoundError:
        return "(not installed)"


if __name__ == "__main__":
    entry()
