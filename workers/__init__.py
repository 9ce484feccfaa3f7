"""The processes: the only place that imports Celery, kombu and Flower and that puts the parts together."""
