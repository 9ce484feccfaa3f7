"""Values and their reading: defaults, environment, logging and Celery configuration; imports nothing of ours."""
