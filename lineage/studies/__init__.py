"""Studies: Optuna over the settings of a recipe. Only this package knows Optuna.

A trial is a succession; all trials of a study are one family. Modules, from the top: ``conduct`` begins or
continues a study, ``workers`` starts processes for it, ``work`` is what each of them does, ``trials`` grows
one trial, ``pruning`` gives it up, ``results`` and ``plots`` tell what came out; below them ``book`` keeps a
study in its database, ``storage`` and ``leases`` are that database, and ``methods``, ``space`` and
``objectives`` put a recipe's words into Optuna's.
"""
