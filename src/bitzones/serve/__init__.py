"""Plans that follow the task: bundles of plans in memory, routing between them, and a server for people who try a plan."""
