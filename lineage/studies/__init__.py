"""Studies: Optuna over the settings of a recipe; the only package that uses Optuna.

A trial is a succession; all trials of a study are one family. Modules, from the top:

- ``study`` begins or continues a study, ``worker_processes`` starts processes for it
- ``worker`` is what each of them does, ``session`` keeps a study's database and MLflow run open
- ``trials`` grows one trial, ``pruning`` ends a hopeless one
- ``report``, ``results`` and ``plots`` show what came out
- ``study_store`` keeps a study in its database, ``running_trial`` and ``trial_record`` one trial
- ``lookup`` finds a study by its name
- ``database`` and ``leases`` are that database
- ``samplers``, ``space``, ``settings`` and ``objectives`` translate a recipe for Optuna
"""
