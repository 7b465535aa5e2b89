"""Relates lost seconds to the wall clock, to training steps and to calls. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from jitwatch.state.schema import LossRow


@dataclass(slots=True)
class StepTimes:
    """Mean duration of a training step, without the compiles in it.

    With the compiles, steps would be longer the more time is lost, and lost time would look small in steps.
    """

    steps: int = 0
    seconds: float = 0.0
    compiling_s: float = 0.0

    def compiled(self, seconds: float) -> None:
        """Add the seconds of a compile since the last step, in any thread."""
        self.compiling_s += seconds

    def stepped(self, steps: int, duration_s: float | None) -> None:
        """Count steps.

        Args:
            steps: Number of steps that ended.
            duration_s: Seconds since the previous steps; None for the first ones.
        """
        if duration_s is not None:
            self.steps += steps
            # A compile in another thread may be longer than the step.
            self.seconds += max(0.0, duration_s - self.compiling_s)
        self.compiling_s = 0.0

    @property
    def mean_s(self) -> float | None:
        """Mean seconds of a step; None if unknown."""
        return self.seconds / self.steps if self.steps and self.seconds > 0 else None


@dataclass(frozen=True, slots=True)
class Pace:
    """The durations that lost seconds are related to.

    Attributes:
        wall_s: Seconds since the agent was installed.
        busy_s: Seconds of `wall_s` in which at least one thread compiled.
        steady_s: Seconds since the steady state began; None outside of one.
        step_s: Mean seconds of a training step; None if the job reports no steps.
    """

    wall_s: float
    busy_s: float = 0.0
    steady_s: float | None = None
    step_s: float | None = None

    def cost(self, lost_s: float, steady_lost_s: float) -> LossRow:
        """The fields of a row about lost seconds: as seconds, as shares of the wall clock, and in steps.

        Args:
            lost_s: Lost seconds.
            steady_lost_s: Seconds of compiles that violated the steady state.
        """
        return {
            "lost_seconds": lost_s,
            "lost_ratio": lost_s / self.wall_s if self.wall_s > 0 else 0.0,
            "lost_steps": lost_s / self.step_s if self.step_s else None,
            "lost_seconds_since_steady": steady_lost_s,
            "lost_ratio_since_steady": steady_lost_s / self.steady_s if self.steady_s and self.steady_s > 0 else None,
        }

    def calls(self, lost_s: float, calls: float | None) -> float | None:
        """Number of calls in `lost_s` seconds at the function's mean rate while nothing compiles; None if unknown.

        Args:
            lost_s: Lost seconds of the function.
            calls: Calls of the function; None where they are not counted.
        """
        running_s = self.wall_s - self.busy_s
        return lost_s * calls / running_s if calls and running_s > 0 else None
