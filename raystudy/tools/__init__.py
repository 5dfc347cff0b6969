"""What is done with data and with finished studies, beside running them: looking, estimating, simulating, exporting, breaking.

A module a tool. No tool takes a command line or prints; none is needed to run a study.
"""
