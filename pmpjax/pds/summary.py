"""What a run found, from what its stages left: the contents of metrics.json."""

from typing import Any

from pmpjax.pds.compare import comparison, selection_costs
from pmpjax.pds.origins import origin_shares
from pmpjax.pds.stages.evaluate import load_evaluation
from pmpjax.pds.stages.receding import at_equal_cost
from pmpjax.pds.work import Work


def metrics_of(work: Work, method: str) -> dict[str, Any]:
    """What metrics.json holds, of a run whose stages up to `evaluate` are whole.

    `verdict`, `speedup` and `steps_needed` [per seed, null where never reached], `final_target_loss` {method: [per
    seed]}, `scorer_spearman`, `selected_fraction`, `duplicates_removed`, `leaks_removed`, `rejected_rows`, `seeds`,
    `origins` {name: {source, selection}: shares of the tokens}, `stage_seconds`, `stage_flops`, and under `stages` the
    facts of each. With other methods than random also `comparison` (`pmpjax.pds.compare.comparison`), and with a
    receding horizon `receding` (`pmpjax.pds.stages.receding.at_equal_cost`).
    """
    config, data, stages = work.config, work.data, work.facts
    evaluation = load_evaluation(work.folders["evaluate"])
    metrics: dict[str, Any] = {
        "verdict": evaluation["verdict"],
        "speedup": evaluation["speedup"]["test"],
        "steps_needed": evaluation["steps_needed"]["test"],
        "final_target_loss": evaluation["final_loss"]["test"],
        "scorer_spearman": stages["fit"]["spearman"]["held_out"],
        "selected_fraction": stages["select"]["selected_fraction"],
        "duplicates_removed": data.counts["duplicates_removed"],
        "leaks_removed": data.counts["leaks_removed"],
        "rejected_rows": data.counts["rejected_rows"],
        "stage_flops": {name: facts.get("flops", 0.0) for name, facts in stages.items()},
        "seeds": list(config.every_seed),
        "origins": origin_shares(data.documents, work.selections[method, config.seed]),
        "stage_seconds": dict(work.seconds),
        "stages": stages,
    }
    if "arms" in evaluation:
        metrics["comparison"] = comparison(method, evaluation, selection_costs(method, stages, work.seconds))
    if "receding" in stages:
        spent = stages["receding"]
        metrics["receding"] = at_equal_cost(config, work.curves, method, spent["selection_flops"], spent["step_flops"])
    return metrics
