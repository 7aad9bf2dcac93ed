"""Figures of the report: functions that take a result and an axis, and the list of them."""
