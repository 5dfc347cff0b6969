"""The figures of a report, a module a subject. One function a figure: numbers in, a matplotlib Figure out, None where there is nothing to
show. What they have in common (sizes, colours, legends) is in ``look``. Nothing here reads a study or writes a file.
"""
