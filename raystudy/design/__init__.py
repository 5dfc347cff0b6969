"""What is to be run: studies, study files, search spaces.

Text in, checked values out. Nothing here loads images or runs anything.
"""

from raystudy import packages

packages.pin()  # whoever imports this room first, a worker of Ray included: before a file of the working folder is taken for ours
