"""Running a profile: what it would cost, a notebook executed and noted, what make reruns, the report."""
