"""From a repo id to a module that is ready to run; load.py has the steps in order."""
