import lineage

try:
    lineage.load("models:/digits/99")
except lineage.LineageError as error:
    print(error.exit_code, error)
