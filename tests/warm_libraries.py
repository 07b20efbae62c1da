"""What the server of ``warm`` imports: what commands of ``lineage`` load, even if they do so late."""

import gc
import sys
from importlib import import_module

sys.modules.setdefault("dbruntime", None)  # type: ignore[arg-type]  # as in the process of the tests

for name in (
    "git",
    "jinja2.defaults",
    "mlflow.cli",
    "mlflow.pyfunc",
    "mlflow.server.fastapi_app",
    "mlflow.store.artifact.mlflow_artifacts_repo",
    "mlflow.store.model_registry.rest_store",
    "mlflow.store.model_registry.sqlalchemy_workspace_store",
    "mlflow.store.tracking.rest_store",
    "mlflow.store.tracking.sqlalchemy_workspace_store",
    "sklearn.datasets",
    "sqlalchemy.dialects.sqlite",
    "torch._dynamo",
    "torch.distributed.run",
    "lineage.cli",
    "lineage.evaluation.diff",
    "lineage.evaluation.ensemble",
    "lineage.evaluation.transfer",
    "lineage.exchange.adopt",
    "lineage.exchange.sync",
    "lineage.growing.grow",
    "lineage.registry.care.doctor",
    "lineage.display.tables",
    "lineage.studies.study",
    "lineage_mlflow.context",
):
    import_module(name)

gc.collect()
gc.freeze()  # else collections in each fork would copy the memory of all that is imported
