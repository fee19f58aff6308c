"""Experiment trackers: evaluations written for other programs' dashboards too, if the job asks for it."""
