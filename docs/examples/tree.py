import lineage

family = lineage.tree("digits")
for version in family:
    teacher = family.teacher(version)
    print(version.uri, version.generation, None if teacher is None else teacher.uri)
print([ancestor.uri for ancestor in family.ancestors(family.versions[2])])  # nearest first
