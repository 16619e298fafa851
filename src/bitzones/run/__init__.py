"""One run: session, journal, runner, and the pytest plugin."""
