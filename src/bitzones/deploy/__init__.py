"""From a plan to a checkpoint that any user of quanto can load; needs a plan, not a report."""
