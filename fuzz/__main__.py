"""The command line: `python -m fuzz --executions 1000000`; a line for each target, the table, and a file of results.

Results of targets that ran before into the same folder stay in its table, so that one target can be run again alone.
"""

import argparse
import os
import sys
import time
from pathlib import Path

from fuzz.campaign import Settings, has_atheris, run_targets, save_results, shares, table
from fuzz.targets import NAMES, TOGETHER
from fuzz.worker import import_targets


def main(argv: list[str] | None = None) -> int:
    """Run the targets and return the exit code: 1 if there are findings."""
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"all of them: {', '.join(NAMES)}")
    parser.add_argument("--executions", type=int, default=1_000_000, help="inputs of all targets together")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="when to end, whatever is left")
    parser.add_argument("--jobs", type=int, default=1, help="how many targets run at a time")
    parser.add_argument("--seed", type=int, default=1, help="the seed of chance")
    parser.add_argument("--output", type=Path, default=Path("fuzz-results"), help="folder of results and findings")
    parser.add_argument("--together", action="store_true", help="all targets in one process, for a short run")
    parser.add_argument("--plain", action="store_true", help="change inputs at random, without atheris")
    options = parser.parse_args(argv)
    options.output = options.output.resolve()
    if unknown := sorted(set(options.targets) - set(NAMES)):
        parser.error(f"there is no target {', '.join(unknown)}; known are {', '.join(NAMES)}")
    if not options.plain and not has_atheris():
        print("atheris is not installed: pip install -e '.[cpu,fuzz]', or pass --plain", file=sys.stderr)
        return 2
    names, start, results = [TOGETHER] if options.together else options.targets or NAMES, time.monotonic(), []
    # Nothing is downloaded, and tokenizers has no threads when this process forks.
    os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", RUST_BACKTRACE="0")
    import_targets(NAMES if options.together else names, options.plain)
    seconds = (options.seconds - (time.monotonic() - start)) * options.jobs / len(names)
    settings = Settings(shares(names, options.executions), seconds, options.seed, options.plain, options.output)
    for result in run_targets(names, settings, options.jobs):
        results.append(result)
        print(f"{result.target}: {result.executions:,} executions in {result.seconds:.0f} s", flush=True)
        for finding in result.findings:
            print(f"  {finding['what']} ({finding['input']})", flush=True)
    engine = "plain" if options.plain else "atheris"
    settings_used = {"engine": engine, "seed": options.seed, "seconds": round(time.monotonic() - start)}
    every = save_results(results, settings_used, options.output)
    print(f"\n{table(every)}")
    return 1 if any(result.findings for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
