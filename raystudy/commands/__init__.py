"""Commands: their options, reading them into typed values, calling, printing.

A module for a command or a family of commands. No logic belongs here, and nothing below imports from here: what a person can do by a
command can be done by a function with typed arguments.
"""
