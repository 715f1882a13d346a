"""One epoch with more than one attempt: what a round alone does not show."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from frames import Frames
from reference import Round, Study

CHEAT, HOLDERS = 1, (3, 4)  # what the one deals to the others does not open
_OF_ATTEMPT = ("round", "attempt", "model", "sites_without_the_model", "values")


class _Cheating(Frames):
    """Frames as they are when site CHEAT's pairs to HOLDERS do not open."""

    def dealt(self, i: int, j: int, *, lie: bool = False) -> list[Any]:
        g, h, pair = super().dealt(i, j, lie=lie)
        return [g, h, bytes(144) if i == CHEAT and j in HOLDERS else pair]


def epoch_of_five(
    trace: Callable[[str, Round], dict[str, Any]],
    constants: Callable[[int], dict[str, Any]],
    values: Callable[[int, int], list[list[int]]],
) -> dict[str, Any]:
    """Return round 1, whose first attempt fails, and round 2, for which a site that was left out is sent the model."""
    study = Study(constants(5))
    first = Round(study, values(5, 1000), silent_r2=HOLDERS)
    second = Round(study, values(5, 999), attempt=1, drawing=1, cohort=[i for i in first.cohort if i != CHEAT])
    third = Round(study, values(5, 998), number=2, drawing=2, model=second.next_model, lacks_model=(CHEAT,))
    whole = [trace("", one) for one in (first, second, third)]
    whole[0]["steps"] = _failed(first)
    head = {key: value for key, value in whole[0].items() if key not in (*_OF_ATTEMPT, "derived", "outcome")}
    coordinator = {"c_sk": whole[0]["drawn"]["coordinator"]["c_sk"]}
    head["drawn"] = {"coordinator": coordinator, "c_sk": whole[0]["drawn"]["c_sk"]}
    head["steps"] = [step for step in whole[0]["steps"] if step["stage"].startswith("E")]
    attempts = []
    for one, made in zip((first, second, third), whole, strict=True):
        drawn = {name: listed for name, listed in made["drawn"].items() if name != "c_sk"}
        drawn["coordinator"] = {"fresh": one.coordinator_fresh.hex()}
        steps = [step for step in made["steps"] if not step["stage"].startswith("E")]
        numbers = {name: made[name] for name in _OF_ATTEMPT} | {"cohort": one.cohort, "drawn": drawn}
        end = {"abort": {"stage": "R1p", "error": "TooFewSurvivors"}} if one is first else {"outcome": made["outcome"]}
        attempts.append(numbers | {"derived": made["derived"], "steps": steps} | end)
    what = "round 1 fails at two complaints, is tried again without the dealer they blame, and round 2 follows"
    return head | {"what": what, "attempts": attempts}


def _failed(r: Round) -> list[dict[str, Any]]:
    """Return the steps up to the complaints. arrives_as: what reaches S in place of what an honest site would reply."""
    honest, false = Frames(r), _Cheating(r)
    steps = [step for step in false.steps() if step["stage"] not in ("R3a", "R3c", "R5")]
    for step in steps:
        if (step["stage"], step["site"]) == ("R0", CHEAT):
            step |= {"reply": honest.r1(CHEAT).hex(), "arrives_as": step["reply"]}
        if step["stage"] == "R1p" and step["site"] in HOLDERS:
            step |= {"reply": false.sealed("BadShare", step["site"], [[CHEAT]]).hex(), "arrives": True}
    return steps
