"""How much each parameter of a search decides whether a trial is among the best: Optuna's PED-ANOVA.

Watanabe, Bansal and Hutter, PED-ANOVA: Efficiently Quantifying Hyperparameter Importance in Arbitrary Subspaces, 2023. It
compares where the best trials lie with where all lie, draws nothing, and looks at one parameter at a time.
"""

import warnings
from collections.abc import Sequence

from samebits.search import proposals
from samebits.search.search_file import SearchFile
from samebits.search.trials import Trial, best_first

MIN_TRIALS = 10
_BEST_SHARE = 0.1
_MIN_BEST = 5  # Optuna: fewer among the best make it unstable


def importances(search_file: SearchFile, trials: Sequence[Trial]) -> dict[str, float]:
    """Return the share of each parameter, the largest first; empty for one parameter or fewer than MIN_TRIALS complete trials."""
    import optuna
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    ranked = best_first(trials, search_file.is_maximized)
    if len(ranked) < MIN_TRIALS or len(search_file.parameters) < 2:
        return {}
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings(action="ignore"):  # a range that its step does not divide, trials that are all alike
        study = optuna.create_study(direction="maximize" if search_file.is_maximized else "minimize")
        distributions = {key: proposals.distribution(each) for key, each in search_file.parameters.items()}
        for trial, value in ranked:
            values = proposals.in_optuna(search_file, trial.values)
            study.add_trial(optuna.create_trial(params=values, distributions=distributions, value=value))
        evaluator = PedAnovaImportanceEvaluator(target_quantile=max(_BEST_SHARE, _MIN_BEST / len(ranked)))
        found = get_param_importances(study, evaluator=evaluator, params=sorted(distributions))
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))
