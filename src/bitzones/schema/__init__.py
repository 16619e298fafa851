"""What passes between the rooms: records of a run file, profiles, errors, files."""
