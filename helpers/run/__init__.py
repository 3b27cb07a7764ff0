"""Running a profile: what it would cost, a notebook executed and noted, what make reruns, a report.

What a stage does is not here: that is in `helpers.corpus`, `helpers.training`, `helpers.evaluate`.
"""
