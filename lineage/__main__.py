"""``python -m lineage``: what ``accelerate launch -m lineage …`` runs."""

from lineage.cli import main

main()
