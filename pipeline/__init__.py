"""What the system does, from an incoming consent event to every vendor's answer; knows no Celery and no environment."""
