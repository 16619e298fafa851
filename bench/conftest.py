"""The benches are thin: parameters come from the profile, and everything else from the fixtures of the plugin."""

pytest_plugins = ["bitzones.run.plugin"]
