"""What every kind of intervention can do: come into force, stay in force, and be seen in force."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from transformers import PreTrainedModel

from ablation.config.interventions import InterventionSettings
from ablation.model.checks.treated import NotInForce, mark, marks
from ablation.vocabulary.masks import CAUSAL


class Intervention:
    """One intervention of a study, by its name there and the settings of its kind.

    mask: the mask of the rows of a model under the intervention.
    masters: whether a training keeps float32 copies of the weights, because `constrain` loses what
        a step has added to them.
    """

    masters: ClassVar[bool] = False

    def __init__(self, name: str, settings: InterventionSettings) -> None:
        self.name, self.settings, self.mask = name, settings, CAUSAL

    def as_dict(self) -> dict[str, Any]:
        """The settings as configuration, fingerprints and marks hold them."""
        return self.settings.model_dump()

    def apply(self, model: PreTrainedModel) -> None:
        """Bring the intervention into force; called after every load, and harmless a second time.

        The first time on a model, its configuration gets the mark that is saved with it. Raises
        ValueError if the model has no part that could be taken away.
        """
        if self.marked(model):
            self.restore(model)
        else:
            if problem := self.settings.problem(model.config.to_dict()):
                raise ValueError(f"interventions.{self.name}.{problem[0]}: {problem[1]}")
            before = self.take_away(model)
            mark(model.config, self.as_dict(), before)

    def marked(self, model: PreTrainedModel) -> bool:
        """Whether the configuration of `model` names the intervention."""
        return self._mark(model) is not None

    def before(self, model: PreTrainedModel) -> Mapping[str, Any]:
        """What `take_away` noted of the model before; empty if it never ran on it."""
        return (self._mark(model) or {}).get("before", {})

    def _mark(self, model: PreTrainedModel) -> dict[str, Any] | None:
        own = self.as_dict()
        return next((m for m in marks(model.config) if m["settings"] == own), None)

    def take_away(self, model: PreTrainedModel) -> dict[str, Any]:
        """Change a whole model; return what the audit must know of it as it was."""
        raise NotImplementedError

    def restore(self, model: PreTrainedModel) -> None:
        """Bring into force again what saved weights and configuration do not hold."""

    def constrain(self, model: PreTrainedModel) -> None:
        """Bring the weights back under the intervention after an optimizer step."""

    def audit(self, model: PreTrainedModel) -> dict[str, Any]:
        """Evidence, as JSON holds it, that the intervention is in force, seen by its effect.

        Raises NotInForce if it is not.
        """
        raise NotImplementedError

    def not_in_force(self, model: PreTrainedModel, seen: str) -> NotInForce:
        """The error to raise after `seen`, which says what the model does."""
        kind = f"{type(model).__name__}, {self.settings.kind}"
        return NotInForce(
            f"intervention {self.name!r} is not in force ({kind}): {seen}. Nothing was scored or "
            "trained. If the checkpoint was saved by other software, make it again"
        )
