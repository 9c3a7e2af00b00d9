"""One module for each kernel; its `cases(setting)` yields what is timed."""
