"""Coverage-guided fuzzing (atheris, libFuzzer) of what reads bytes from outside: `python -m tests.fuzz TARGET FOLDER SECONDS SEED MEGABYTES`."""
