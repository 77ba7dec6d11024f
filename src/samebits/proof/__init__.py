"""Running a result once more, and comparing it bit for bit with what was recorded."""
