"""Train neural networks in generations and remember the family.

The public names are those of ``__init__.pyi``, which type checkers read as well. Each is loaded when it is
first used: importing ``lineage`` loads neither torch nor MLflow.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
