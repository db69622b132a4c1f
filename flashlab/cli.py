"""The command line: `flashlab doctor`, `grade`, `autograder`, `progress`, `bench` and `tune`."""

import sys

from flashlab import doctor


def main():
    """Entry point. Without the course's packages the doctor still speaks."""
    sys.stdout.reconfigure(errors="replace")  # a pipe on Windows may know no tick
    try:
        import typer  # noqa: F401
    except ImportError:
        print(doctor.report())
        if sys.argv[1:] != ["doctor"]:
            sys.exit("This command needs the course's packages, which the line above installs.")
        return
    _app()()


def _app():
    import typer
    from rich.console import Console
    from rich.table import Table

    app = typer.Typer(add_completion=False, no_args_is_help=True, help="FlashAttention that you can read, import and learn to build.")
    console = Console()

    @app.command("doctor")
    def doctor_command():
        """Say what this machine can run, why, and which command mends what is missing."""
        table = Table("", "subject", "found", show_edge=False, show_header=False, padding=(0, 1))
        for finding in doctor.examine():
            mark = {"ok": "[green]✓", "limited": "[yellow]~", "missing": "[red]✗"}[finding.state]
            table.add_row(mark, f"[bold]{finding.subject}", finding.found + (f"\n[cyan]→ {finding.mend}" if finding.mend else ""))
        console.print(table)

    @app.command()
    def grade(
        path: str = typer.Argument(help="An exercise notebook such as exercises/03_online_softmax.ipynb, a folder of them, or a zip."),
        out: str = typer.Option("grades", help="Folder for the reports."),
        seed: int = typer.Option(0, help="Cases are drawn from this seed. Keep it secret, and nobody can have prepared for them."),
        cases: str = typer.Option(None, help="A Python file with more cases: def cases_3_1(rng): return [Case(…), …]."),
        seconds: int = typer.Option(60, min=1, help="How long a cell of a submission may run."),
        workers: int = typer.Option(None, min=1, help="How many are graded at a time; as many as there are cores when not given."),
        gradescope: str = typer.Option(None, help="Also write Gradescope's results.json to this path."),
        classroom: str = typer.Option(None, help="Also write what GitHub Classroom's reporter reads to this path."),
    ):
        """Run exercise notebooks, each in its own process, judge their tasks and write the reports. Submissions are only read."""
        import json
        import tempfile

        from rich.progress import track

        from flashlab.course import batch, extra_cases, reports
        from flashlab.files import write_whole

        with tempfile.TemporaryDirectory() as unpacked:
            try:
                found = batch.submissions(path, unpacked)
                if cases:
                    extra_cases.examine(cases)
            except ValueError as error:
                raise typer.BadParameter(str(error), param_hint="PATH or --cases") from error
            graded = batch.grade_all(found, out, seed, workers, seconds, cases)
            grades = dict(track(graded, "grading", total=len(found), console=console))
        if len(grades) == 1:
            _show_tasks(*grades.values(), console)
            written = [f"{out}/{name}.{kind}" for name in grades for kind in ("json", "md", "html")]
        else:
            _show_grades(grades, console)
            written = reports.write_summary(grades, out)
        for target, told in ((gradescope, reports.as_gradescope), (classroom, reports.as_classroom)):
            if target:
                written = (*written, write_whole(target, json.dumps(told(grades), indent=1) + "\n"))
        for path in written:
            console.print(f"written: {path}", highlight=False)

    @app.command()
    def autograder(
        lesson: list[str] = typer.Argument(help="The exercises that students hand in, such as 03."),
        out: str = typer.Option("autograder.zip", help="Where to write the zip."),
        seed: int = typer.Option(0, help="Cases are drawn from this seed."),
        cases: str = typer.Option(None, help="A Python file with more cases, as for `flashlab grade`."),
    ):
        """Write the zip that Gradescope asks for: it installs flashlab and grades what a student hands in."""
        from flashlab.course import autograder as gradescope

        try:
            written = gradescope.write(lesson, out, seed, cases)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error
        console.print(f"written: {written}", highlight=False)

    @app.command()
    def progress(
        restore: str = typer.Option(None, help="Add what a progress.json from another machine knows."),
        picture: str = typer.Option(None, help="Also draw it into this file, such as progress.png."),
    ):
        """Show which tasks of the exercises are done, and what each earned. It is kept on this machine alone."""
        from flashlab.course import progress as kept

        try:
            if restore:
                kept.restore(restore)
            known = kept.read()
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint="--restore" if restore else "progress") from error
        _show_progress(kept.by_lesson(known), console)
        if picture:
            from flashlab.course.figures import progress as figure

            figure.draw(kept.by_lesson(known)).savefig(picture, dpi=110)
            console.print(f"written: {picture}", highlight=False)
        console.print(f"kept in {kept.path()}", highlight=False)

    @app.command()
    def tune(
        head_dim: list[int] = typer.Option([64, 128], help="64, 128 or 256: tiles for head dims up to that. May be given more than once."),
        dtype: list[str] = typer.Option(["bfloat16"], help="float16, bfloat16 or float32. May be given more than once."),
        forget: bool = typer.Option(False, "--forget", help="Measure nothing: delete what was measured before."),
    ):
        """Measure tile sizes on this machine's GPU and keep the fastest: later calls on it use them."""
        _require_gpu("tune")
        import torch
        from rich.progress import track

        from flashlab.bench import tune as tuning
        from flashlab.kernels import tuned

        if forget:
            tuned.path().unlink(missing_ok=True)
            console.print("measured tiles are forgotten; the tables hold again")
            return
        allowed = {"head-dim": (64, 128, 256), "dtype": ("float16", "bfloat16", "float32")}
        for name, given in (("head-dim", head_dim), ("dtype", dtype)):
            wrong = [x for x in given if x not in allowed[name]]
            if wrong:
                raise typer.BadParameter(f"{wrong[0]} is none of {', '.join(map(str, allowed[name]))}.", param_hint=f"--{name}")
        table = Table("kernel", "D", "dtype", "call", "keys", "tiles", "time", "of before", title=tuned.circumstances()["device"])
        found = {}
        for case in track(tuning.cases(head_dim, [getattr(torch, name) for name in dtype]), "tuning", console=console):
            tiles, now, before = tuning.best(case)
            if tiles is not None:
                found[tuning.call_of(case)] = tiles
            kind = (case.kernel, str(case.head_dim), str(case.dtype).removeprefix("torch."), "causal" if case.banded else "full")
            words = "as before" if tiles is None else "{} × {}, {} warps, {} stages".format(*tiles)
            table.add_row(*kind, "few" if case.few_keys else "many", words, f"{now:.3f} ms", f"{now / before:.2f}")
        console.print(table)
        console.print(f"written: {tuned.save(found)}", highlight=False)

    @app.command()
    def bench(
        out: str = typer.Option("benchmarks", help="Folder for the record: one JSON a machine."),
        commit: str = typer.Option(None, help="The commit that is measured; asked of git when not given."),
        against: str = typer.Option(None, "--compare", help="An earlier record of this machine. Exit with 1 if a case got worse."),
        band: float = typer.Option(0.05, min=0.0, help="With --compare: how much slower is still noise."),
    ):
        """Measure flashlab beside every peer on this machine's GPU: speed, memory, the price of features, the ladder. Writes a record."""
        from flashlab.bench import compare

        try:
            before = compare.read(against) if against else None  # before anything is measured, and before the file may be replaced
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint="--compare") from error
        _require_gpu("bench")
        from rich.progress import track

        from flashlab.bench import decode, features, launch, limits, memory, peers, problems, record, report, speed
        from flashlab.course import ladder
        from flashlab.course.figures import speed as figures

        here, missing = peers.found()
        for name, why in missing.items():
            console.print(f"[yellow]not here[/]  {name}: {why}")

        def each(work, cases, words):
            return [work(case) for case in track(list(cases), f"{words:<10}", console=console)]

        measurements = dict(
            peers={peer.name: peer.version for peer in here}, missing=missing, launch=launch.measure(), ladder=ladder.measure()
        )
        measurements["limits"] = limits.measure()
        calls = [(head_dim, is_causal) for head_dim in problems.HEAD_DIMS for is_causal in (False, True)]
        measurements["changes"] = sum(each(lambda call: ladder.measure_changes(*call), calls, "changes"), [])
        measurements["features"] = sum(each(features.measure, problems.HEAD_DIMS, "features"), [])
        measurements["documents"] = each(features.measure_documents, problems.HEAD_DIMS, "documents")
        measurements["decode"] = each(decode.measure, decode.grid(), "decode")
        measurements["memory"] = each(memory.measure, memory.SEQLENS, "memory")
        measurements["speed"] = each(lambda problem: speed.measure(problem, here), problems.grid(), "speed")
        for table in report.tables(measurements):
            console.print(table)
        path = record.write(measurements, out, "flashlab bench", commit)
        for written in (path, *figures.draw_all(compare.read(path), path)):
            console.print(f"written: {written}", highlight=False)
        if before is not None:
            _judge(before, compare.read(path), band, console)

    return app


def _show_tasks(grade, console):
    """One submission, task by task."""
    from rich.table import Table

    table = Table("task", "title", "status", "points", "likely mistake", title=f"{grade.submission}: {grade.points} / {grade.out_of}")
    color = {"passed": "green", "failed": "red", "not attempted": "dim"}
    for row in grade.results:
        table.add_row(row.number, row.title, f"[{color[row.status]}]{row.status}", f"{row.points} / {row.out_of}", row.mistake)
    console.print(table)
    if grade.trouble:
        console.print(f"[red]trouble: {grade.trouble}", highlight=False)


def _show_grades(grades, console):
    """Many submissions, a line each."""
    from rich.table import Table

    table = Table("submission", "lesson", "points", "not attempted", "trouble", title=f"{len(grades)} submissions")
    for name, grade in sorted(grades.items()):
        skipped = sum(result.status == "not attempted" for result in grade.results)
        table.add_row(name, grade.lesson, f"{grade.points} / {grade.out_of}", str(skipped or ""), grade.trouble)
    console.print(table)


def _show_progress(lessons, console):
    """A line for each exercise: a mark for each task, and its points as a bar."""
    from rich.progress_bar import ProgressBar
    from rich.table import Table

    marks = {"passed": "[blue]●[/]", "failed": "[red]◐[/]", "not attempted": "[dim]○[/]"}
    table = Table("lesson", "tasks", "points", "", title="● done   ◐ begun   ○ not attempted")
    for lesson, tasks in lessons.items():
        points, out_of = sum(task.points for task in tasks), sum(task.out_of for task in tasks)
        table.add_row(lesson, " ".join(marks[task.status] for task in tasks), f"{points} / {out_of}", ProgressBar(out_of, points, width=20))
    console.print(table)


def _judge(before, now, band, console):
    """Say which cases got worse, and leave with 1 if any did."""
    import typer

    from flashlab.bench import compare

    try:
        found = compare.worse(before, now, band)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--compare") from error
    for case in found:
        console.print(f"[red]worse[/]  {case}", highlight=False)
    verdict = f"{len(found)} case{'s' * (len(found) > 1)} got worse" if found else "no case got worse"
    console.print(f"{verdict} than in the record of {before['date']} (noise: {band:.0%})", highlight=False)
    if found:
        raise typer.Exit(1)


def _require_gpu(command):
    import torch
    import typer

    if not torch.cuda.is_available():
        message = "there is no GPU here to measure; `flashlab doctor` says what this machine can run."
        raise typer.BadParameter(message, param_hint=command)
