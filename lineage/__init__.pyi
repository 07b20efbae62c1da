# The public API: what another program may call. Everything else is internal.
from .display.comparison import Comparison
from .display.forecast import ExpectedGeneration, Forecast
from .errors import LineageError
from .evaluation.compare import compare
from .evaluation.diff import Difference, diff
from .evaluation.ensemble import Ensemble, ensemble
from .evaluation.evaluate import Evaluation, evaluate, load
from .evaluation.frame import frame
from .evaluation.plots import plot_confusion, plot_metric, plot_reliability
from .evaluation.predictions import predictions
from .evaluation.report import Report, report
from .evaluation.transfer import transfer
from .exchange.adopt import Adoption, Candidate, Normalisation, adopt
from .exchange.export import Export, export
from .growing.audit import audit
from .growing.forecast import forecast
from .growing.grow import grow
from .growing.parallel import FailedSeedsError, SeedOutcome
from .growing.succession import Lineage
from .registry.family.family import Family, Version
from .registry.family.lookup import tree
from .registry.family.overview import FamilyOverview, families
from .registry.flavor import LoadedModel
from .registry.store.audits import Audit
from .registry.store.predicted import Predictions
from .studies.results import StudyResult
from .studies.study import study

__version__: str
__all__ = [
    "Adoption",
    "Audit",
    "Candidate",
    "Comparison",
    "Difference",
    "Ensemble",
    "Evaluation",
    "ExpectedGeneration",
    "Export",
    "FailedSeedsError",
    "Family",
    "FamilyOverview",
    "Forecast",
    "Lineage",
    "LineageError",
    "LoadedModel",
    "Normalisation",
    "Predictions",
    "Report",
    "SeedOutcome",
    "StudyResult",
    "Version",
    "adopt",
    "audit",
    "compare",
    "diff",
    "ensemble",
    "evaluate",
    "export",
    "families",
    "forecast",
    "frame",
    "grow",
    "load",
    "plot_confusion",
    "plot_metric",
    "plot_reliability",
    "predictions",
    "report",
    "study",
    "transfer",
    "tree",
]
