"""A PaliGemma in fewer bits, its codes found on the user's own pictures.

samples   pictures and prompts, and what the float model answers
walk      one block after the other, the data carried from each to the next
store     finished blocks on disk, so that a run can go on after it was killed
judge     how far the quantised model's next tokens are from the float model's
report    what it cost
run       all of it
"""

from heliodor.see.calibration.report import Report
from heliodor.see.calibration.run import calibrate
from heliodor.see.calibration.settings import METHODS, SCHEMES, Settings

__all__ = ["METHODS", "SCHEMES", "Report", "Settings", "calibrate"]
