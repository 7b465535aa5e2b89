"""Lost seconds as shares of the wall clock, in training steps and in calls. Pure arithmetic."""

from __future__ import annotations

from dataclasses import dataclass

from jitwatch.state.schema import LossRow


@dataclass(slots=True)
class StepTimes:
    """Mean duration of a training step without its compiles, in seconds.

    A step that compiles is longer. Measured in such steps, lost time would look smaller the more is lost.
    """

    steps: int = 0
    seconds: float = 0.0
    compiling_s: float = 0.0

    def compiled(self, seconds: float) -> None:
        """Count a compile since the last step, of any thread."""
        self.compiling_s += seconds

    def stepped(self, steps: int, duration_s: float | None) -> None:
        """Count steps.

        Args:
            steps: How many ended.
            duration_s: Seconds since the steps before them; None for the first.
        """
        if duration_s is not None:
            self.steps += steps
            # A compile in another thread may be longer than the step beside it.
            self.seconds += max(0.0, duration_s - self.compiling_s)
        self.compiling_s = 0.0

    @property
    def mean_s(self) -> float | None:
        """Seconds of a mean step; None until one is known."""
        return self.seconds / self.steps if self.steps and self.seconds > 0 else None


@dataclass(frozen=True, slots=True)
class Pace:
    """What lost seconds are measured against.

    Attributes:
        wall_s: Seconds since the agent was installed.
        busy_s: The part of it in which at least one thread compiled.
        steady_s: Seconds since the steady state began; None outside of one.
        step_s: Seconds of a mean training step; None where the job reports none.
    """

    wall_s: float
    busy_s: float = 0.0
    steady_s: float | None = None
    step_s: float | None = None

    def cost(self, lost_s: float, steady_lost_s: float) -> LossRow:
        """Lost seconds as the state shows them: as they are, as shares of wall clock, and in steps."""
        return {
            "lost_seconds": lost_s,
            "lost_ratio": lost_s / self.wall_s if self.wall_s > 0 else 0.0,
            "lost_steps": lost_s / self.step_s if self.step_s else None,
            "lost_seconds_since_steady": steady_lost_s,
            "lost_ratio_since_steady": steady_lost_s / self.steady_s if self.steady_s and self.steady_s > 0 else None,
        }

    def calls(self, lost_s: float, calls: float | None) -> float | None:
        """Calls that a function gets in `lost_s` at its mean rate while nothing compiles; None if unknown."""
        running_s = self.wall_s - self.busy_s
        return lost_s * calls / running_s if calls and running_s > 0 else None
