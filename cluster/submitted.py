"""The driver of a submitted run: what a cluster's head starts, with a run's id and the number of the attempt.

Everything else it needs lies in the run's directory, so nothing of a user's stands on a command line. It joins the
cluster that started it and leaves it as it was; what it says is the job's log.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from cluster.errors import HoneError, UsageError

EXIT_INTERRUPTED = 130


def main(argv: Sequence[str]) -> int:
    """Run what is left of RUN, as attempt N, and return 0 when it has finished, whatever its gate says."""
    try:
        run, attempt = argv
        drive(run, int(attempt))
    except HoneError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    return 0


def drive(run: str, attempt: int) -> None:
    """Run what is left of a run. Raises UsageError where a later attempt has taken it over, and what ends the run."""
    from cluster import pipeline
    from cluster.command import progress_here, settings_here
    from cluster.store import Store
    from cluster.submissions import read_submission
    from cluster.tables import result_lines

    settings, progress = settings_here(), progress_here()
    submission = read_submission(Store(settings.home), run)
    if submission is None or submission.attempt != attempt:
        raise UsageError(f"attempt {attempt} of {run} is not the one that was submitted last", f"hone status {run}")
    ctx = pipeline.context_of(run, settings, progress, submission.overrides)
    progress.say(f"run {run}" if attempt == 1 else f"run {run} goes on (attempt {attempt})")
    result = pipeline.go_on(ctx)
    print(*result_lines(result, pipeline.report_path(settings, run), ctx.registry.ui_command()), sep="\n")


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
