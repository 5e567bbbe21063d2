"""How every training of both studies goes on from its newest state, and how it ends."""

from __future__ import annotations

from pathlib import Path

from transformers import Trainer, TrainerState

from ablation.states import complete_states
from ablation.stops import Stops

TRAINER_STATE = "trainer_state.json"  # a name that the Trainer knows


def past_of(newest: Path | None, stops: Stops) -> TrainerState:
    """What happened up to the state `newest`, which `stops` is told; None: nothing yet."""
    past = TrainerState.load_from_json(newest / TRAINER_STATE) if newest else TrainerState()
    for entry in past.log_history:
        stops.saw(entry)
    return past


def train_on(trainer: Trainer, newest: Path | None, past: TrainerState, label: str) -> TrainerState:
    """Train from `newest` to the end or a stop; what the weights of `trainer.model` have seen then.

    Where loss or gradient was not finite those are the weights of the last whole state. Raises
    FloatingPointError when there is none.
    """
    stops, state = trainer.stops, Path(trainer.args.output_dir)
    over = stops.reason is not None or past.global_step >= trainer.recipe["max_steps"]
    if over:
        trainer.state = past  # killed after its last step: nothing is left to train
    else:
        trainer.train(resume_from_checkpoint=str(newest) if newest else None)
    seen = trainer.state
    if stops.reason == "non_finite":
        newest = next(reversed(complete_states(state)), None)
        if newest is None:
            raise FloatingPointError(
                f"{label}: loss or gradient was not finite by step {seen.global_step}, before a "
                f"state was saved. Lower learning_rate or save_steps."
            )
        seen = TrainerState.load_from_json(newest / TRAINER_STATE)
    if over or stops.reason == "non_finite":
        trainer._load_from_checkpoint(newest)
    return seen
