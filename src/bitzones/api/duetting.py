"""Two environments measured in turn, and what that says of every cell."""

from __future__ import annotations

from pathlib import Path

from bitzones.analysis.reader import read_run
from bitzones.api.comparing import Comparison
from bitzones.duets import counting, driver
from bitzones.duets.pair import Limits
from bitzones.duets.sides import side
from bitzones.duets.watch import DuetWatch
from bitzones.regression import duet_changes
from bitzones.regression.compare import compare
from bitzones.regression.comparison import Status
from bitzones.regression.duet_verdicts import control
from bitzones.schema import profile_files
from bitzones.schema.duet_record import DuetFile
from bitzones.schema.profile import Profile
from bitzones.schema.profile_sections import Gate

__all__ = ["Duet", "duet", "read_duet"]

DEFAULT_PROFILE = "duet"

CELL_LIMIT_S = 900.0
"""A quarter of an hour a cell."""

ROUND_LIMIT_S = 120.0
"""A round takes tens of milliseconds to seconds; what takes longer than this hangs."""


class Duet(DuetFile):
    """What two environments measured in turn; ``cells`` have the raw times, ``old`` and ``new`` what is no time."""

    def __str__(self) -> str:
        return repr(self)

    def __repr__(self) -> str:
        counted = self.way == "counted"
        what = f"{len(self.new.cells)} counted works" if counted else f"{len(self.cells)} timed cells"
        return f"<Duet of {self.old.spec!r} and {self.new.spec!r}: {what}{', stopped' if self.stopped else ''}>"

    def comparison(self, gate: Gate | None = None) -> Comparison:
        """Every cell with its verdict, as `compare` gives it. ``gate`` has the tolerances, by default those of the duet."""
        old, new = (duet_changes.side_run(self, which) for which in (self.old, self.new))
        return Comparison(**dict(compare(old, new, gate or self.gate, duets=duet_changes.duets_of(self))))

    @property
    def verdicts(self) -> dict[tuple[str, str, str], Status]:
        """Status of every cell, by kind, variant and detail."""
        return self.comparison().verdicts

    def to_json(self) -> str:
        """The duet file."""
        return self.model_dump_json(indent=1, by_alias=True) + "\n"

    def false_alarms(self) -> list[str]:
        """Of a side against itself, a line a cell: the interval, false alarms over exchanges of the order, the smallest change seen."""
        lines = []
        for cell in self.cells:
            found = control(cell.first, cell.family, self.gate.duet_time, self.seed)
            smallest = "none" if found.smallest_change is None else f"{found.smallest_change:.1%}"
            lines.append(
                f"{cell.judged}: {found.word}, {found.n} quadruples, {found.alarms} false alarms in {found.exchanges} exchanges of the "
                f"order, smallest change seen with 80% power {smallest}"
            )
        return lines


def duet(
    old: str | Path,
    new: str | Path = "this",
    profile: str | Path | Profile = DEFAULT_PROFILE,
    *,
    gate: Gate | None = None,
    cell_limit_s: float = CELL_LIMIT_S,
    round_limit_s: float = ROUND_LIMIT_S,
    threads: int = 1,
    seed: int = 0,
    checks: bool = True,
    select: str = "",
    in_turn: bool = False,
    instructions: Path | str | None = None,
    watch: DuetWatch | None = None,
) -> Duet:
    """Measure two environments against each other: live processes that do one round each in turn, until every verdict is known.

    Args:
        old: a virtual environment, a wheel or a checkout of bitzones, requirements such as ``"optimum-quanto==0.2.4"`` (installed over the
            present environment, once), ``git:REF`` (a commit of bitzones in the repository here), ``docker:IMAGE``, or ``"this"``.
        new: the same. Twice the same is a check of the machine.
        profile: what is measured: a name, a file, or a profile.
        gate: tolerances; by default those of the profile.
        cell_limit_s: seconds that one cell may take until it is inconclusive.
        round_limit_s: seconds after which a round is taken to hang.
        threads: that each side computes with.
        seed: of the order of the rounds.
        checks: whether accuracy, divergence and memory are measured besides times.
        select: part of the names of the cells that are timed.
        in_turn: whether memory holds one model at a time; pairs are then as far apart as loading takes.
        instructions: a run file. The sides then analyze, report and compare it without torch, the instructions of that are counted, and
            of the other arguments only ``gate`` and ``cell_limit_s`` count.
        watch: told of progress.

    Returns:
        The duet. ``stopped`` says why it ended early, if it did.

    Raises:
        DuetError: a side cannot be started or installed, or the two do not measure the same.
        MeasureError: a side cannot load the model.
        NotMeasuredError: instructions are to be counted, and nothing counts them on this machine.
        ProfileError: the profile is not usable.
        RunFileError: the run file is not usable.

    Example:
        >>> found = bitzones.duet("optimum-quanto==0.2.6", "this")  # doctest: +SKIP
        >>> found.verdicts["latency", "w4", "decode-b1-p32-n4"]  # doctest: +SKIP
        'same'
    """
    chosen = profile if isinstance(profile, Profile) else profile_files.load(str(profile)).resolved()
    watch = watch or DuetWatch()
    before = side(str(old), "OLD", watch.say)
    after = before if str(old) == str(new) else side(str(new), "NEW", watch.say)
    if instructions is not None:
        read_run(instructions)
        counted = chosen.model_copy(update={"gate": gate or chosen.gate})
        return Duet(**dict(counting.count((before, after), Path(instructions), counted, cell_limit_s, watch)))
    settings = driver.DuetSettings(
        gate=gate or chosen.gate,
        cell_limit_s=cell_limit_s,
        threads=threads,
        seed=seed,
        checks=checks,
        select=select,
        in_turn=in_turn,
        limits=Limits(round_s=round_limit_s),
    )
    return Duet(**dict(driver.play((before, after), chosen, settings, watch)))


def read_duet(path: Path | str) -> Duet:
    """Read a duet file.

    Args:
        path: of the file that ``bitzones duet`` wrote.

    Returns:
        The duet.

    Raises:
        RunFileError: it is missing, truncated, no duet, or of another schema.
    """
    return Duet(**dict(duet_changes.read_duet(path)))
