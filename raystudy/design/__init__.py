"""What is to be run: studies, study files, search spaces.

Text in, checked values out. Nothing here loads images or runs anything.
"""
