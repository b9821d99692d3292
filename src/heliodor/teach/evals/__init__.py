"""Measures of what a model answers, each with its definition and source."""

from heliodor.teach.evals.evaluation import run
from heliodor.teach.evals.exam import TASKS
from heliodor.teach.evals.marking import FLOORS, Floor
from heliodor.teach.evals.report import Figure, Report

__all__ = ["FLOORS", "TASKS", "Figure", "Floor", "Report", "run"]
