"""Grading a cohort: intake, sandbox, warm kernels, journal, gradebook, review. Stands on ``course_lib``."""
